//! `siltstone produce` as a process: what a user sees when a load does not go well.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

fn siltstone() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_siltstone"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SILTSTONE_") {
            command.env_remove(name);
        }
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A server that is killed when the test ends.
struct Server {
    child: Child,
    address: String,
    _dir: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut child = siltstone()
            .current_dir(dir.path())
            .args([
                "serve",
                "--grpc-listen",
                "127.0.0.1:0",
                "--http-listen",
                "127.0.0.1:0",
            ])
            .args(["--set", "storage.min_free_bytes=0"])
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
            _dir: dir,
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = siltstone();
        command.env("SILTSTONE_SERVER", &self.address).args(args);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn signal(child: &Child, name: &str) {
    let kill = format!("kill -{name} {}", child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
}

/// Returns when the process has a handler for Ctrl-C.
fn wait_for_handler(child: &Child) {
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

fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn ctrl_c_ends_a_load_with_a_summary_though_the_server_never_answers() {
    let server = Server::start();
    signal(&server.child, "STOP");
    let load = server
        .command(&["produce", "flights"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_handler(&load);
    signal(&load, "INT");
    let (code, stdout, stderr) = told(&load.wait_with_output().unwrap());
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stdout.starts_with("0 records acknowledged, 0 B"), "{stdout}");
    assert!(stderr.starts_with("siltstone: interrupted;"), "{stderr}");
}

#[test]
fn a_load_that_cannot_begin_ends_with_a_summary_too() {
    let server = Server::start();
    let load = server.command(&["produce", "nowhere", "--input", "/dev/null"]);
    let (code, stdout, stderr) = told(&{ load }.output().unwrap());
    assert_eq!(code, Some(1));
    assert!(stdout.starts_with("0 records acknowledged"), "{stdout}");
    assert_eq!(
        stderr,
        "siltstone: topic nowhere does not exist; create it first\n"
    );
}
