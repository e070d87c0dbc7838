//! The command as a user runs it: the real binary, its output, its exit code, its signals.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// The command in an environment of its own: no variable of the caller changes what it does.
pub(crate) fn siltstone(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_siltstone"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SILTSTONE_") {
            command.env_remove(name);
        }
    }
    command.args(args).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Exit code, standard output and standard error.
pub(crate) type Told = (Option<i32>, String, String);

/// What a command that ended has told.
pub(crate) fn told(output: &Output) -> Told {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Runs a command to its end.
pub(crate) fn run(mut command: Command) -> Told {
    told(&command.output().unwrap())
}

/// A server process; killed when the test ends.
pub(crate) struct Server {
    pub(crate) child: Child,
    /// Host and port of gRPC.
    pub(crate) address: String,
}

impl Server {
    /// Starts a server with its data in `dir`, on free ports.
    pub(crate) fn start(dir: &Path, args: &[&str]) -> Self {
        let mut child = siltstone(&["serve", "--set", "storage.min_free_bytes=0"])
            .current_dir(dir)
            .args(["--grpc-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"])
            .args(args)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut ready)
            .unwrap();
        let address = ready.split(' ').find_map(|word| word.strip_prefix("grpc="));
        Self {
            address: address.expect("a ready line").to_owned(),
            child,
        }
    }

    /// A command that speaks to this server.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = siltstone(args);
        command.env("SILTSTONE_SERVER", &self.address);
        command
    }

    /// Runs a command with `input` on its standard input.
    pub(crate) fn pipe(&self, args: &[&str], input: &[u8]) -> Told {
        // From a file: a pipe would need a thread of its own to fill it.
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, input).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let mut command = self.command(args);
        command.stdin(file);
        run(command)
    }

    /// Runs a command that must succeed, and returns its standard output.
    pub(crate) fn done(&self, args: &[&str]) -> String {
        let (code, stdout, stderr) = run(self.command(args));
        assert_eq!(code, Some(0), "{args:?}: {stderr}");
        stdout
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server with a directory of its own.
pub(crate) fn server() -> (Server, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (Server::start(dir.path(), &[]), dir)
}

/// An address that stays while the servers behind it come and go.
pub(crate) struct Door {
    pub(crate) address: String,
    behind: watch::Sender<String>,
    entered: watch::Receiver<usize>,
}

impl Door {
    pub(crate) async fn to(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (behind, leads_to) = watch::channel(server.address.clone());
        let (count, entered) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut outer, _)) = listener.accept().await {
                let address = leads_to.borrow().clone();
                let count = count.clone();
                tokio::spawn(async move {
                    // Nobody behind: the guest is turned away at once.
                    if let Ok(mut inner) = TcpStream::connect(address).await {
                        let mut first = [0];
                        let _ = outer.peek(&mut first).await;
                        count.send_modify(|count| *count += 1);
                        let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                    }
                });
            }
        });
        Self {
            address,
            behind,
            entered,
        }
    }

    /// Leads those who come from now on to another server.
    pub(crate) fn lead_to(&self, server: &Server) {
        self.behind.send_replace(server.address.clone());
    }

    /// Waits until somebody came and said a first word.
    pub(crate) async fn was_entered(&self) {
        self.entered
            .clone()
            .wait_for(|count| *count > 0)
            .await
            .expect("the door stays");
    }
}

/// Sends a signal by its name.
pub(crate) fn signal(child: &Child, name: &str) {
    let kill = format!("kill -{name} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// Returns when the process has a handler for Ctrl-C.
pub(crate) fn wait_for_handler(child: &Child) {
    let status = format!("/proc/{}/status", child.id());
    let handles_it = || {
        let status = std::fs::read_to_string(&status).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        u64::from_str_radix(caught.unwrap().trim(), 16).unwrap() & 0b10 != 0
    };
    while !handles_it() {
        std::thread::yield_now();
    }
}
