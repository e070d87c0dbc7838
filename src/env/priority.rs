//! Priority: threads whose work can wait step back where others want the processor.
//!
//! What is not here: whose work can wait (`broker`, `bench`).

/// Of -20 to 19, the greater the weaker (`nice(2)`): a tenth of an ordinary thread's share where both want to run.
const WEAK: i32 = 10;

/// Has the calling thread step back from now on.
///
/// Linux keeps a priority for each thread. Where the system refuses, the thread stays as it is: nothing but speed depends on it.
pub fn step_back() {
    if let Err(error) = rustix::process::setpriority_process(None, WEAK) {
        tracing::debug!(%error, "a thread for work that can wait keeps its priority");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_steps_back_leaves_the_others_as_they_are() {
        let mine = || rustix::process::getpriority_process(None).unwrap();
        let before = mine();
        let its = std::thread::spawn(move || {
            step_back();
            mine()
        });
        assert_eq!(its.join().unwrap(), WEAK);
        assert_eq!(mine(), before);
    }
}
