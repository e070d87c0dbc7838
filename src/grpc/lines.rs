//! The lines to clients, in the hands of who runs the server: all that are open can be cut at once, and those to come refused or held
//! up. A test makes the network fail at the moment it chooses.
//!
//! Invariants
//! - A line that is cut sends nothing any more, not even what was ready to be sent. One that is held up, or waits behind it, is cut
//!   with the others.
//! - What was ordered is used up in its order, one order a connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

/// The lines of one server. Clones are handles of the same.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Counts cuts.
    cut: watch::Sender<u64>,
    ordered: Mutex<VecDeque<Welcome>>,
}

/// How the next connection is received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Welcome {
    /// It is closed at once.
    Refused,
    /// Nothing is read from it, nor from those behind it, for so long.
    Late(Duration),
}

impl Lines {
    /// Cuts every connection that is open, those that are held up among them.
    pub fn cut(&self) {
        self.0.cut.send_modify(|cuts| *cuts += 1);
    }

    /// Orders how a connection to come is received; orders are carried out one after the other.
    pub fn order(&self, welcome: Welcome) {
        self.0.ordered.lock().push_back(welcome);
    }

    /// Takes back what was ordered.
    pub fn clear(&self) {
        self.0.ordered.lock().clear();
    }

    pub(super) fn next(&self) -> Option<Welcome> {
        self.0.ordered.lock().pop_front()
    }

    /// Returns how many orders are left.
    #[cfg(test)]
    pub(super) fn ordered(&self) -> usize {
        self.0.ordered.lock().len()
    }

    /// Completes at the next cut after this call.
    pub(super) fn until_cut(&self) -> impl Future<Output = ()> + Send + use<> {
        let (mut cuts, lines) = (self.0.cut.subscribe(), self.clone());
        async move {
            // It fails only once no line could be cut any more, and one is held here.
            let _ = cuts.changed().await;
            drop(lines);
        }
    }
}
