//! `siltstone serve` as a process: its one line, its signals, its exit codes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

struct Process {
    child: Child,
    ready: String,
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_siltstone"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SILTSTONE_") {
            command.env_remove(name);
        }
    }
    command
        .current_dir(dir)
        .args([
            "serve",
            "--grpc-listen",
            "127.0.0.1:0",
            "--http-listen",
            "127.0.0.1:0",
        ])
        .args(["--set", "storage.min_free_bytes=0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Process {
    /// Waits for the ready line; anything else on standard output fails the test.
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut ready)
            .unwrap();
        Self {
            child,
            ready: ready.trim_end().to_owned(),
        }
    }

    fn field(&self, name: &str) -> &str {
        let mut words = self.ready.split(' ');
        assert_eq!(words.next(), Some("ready"), "{:?}", self.ready);
        words
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
            .unwrap()
    }

    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Everything else it printed, and how it ended.
    fn end(mut self) -> (String, ExitStatus) {
        let mut stdout = String::new();
        self.child
            .stdout
            .take()
            .unwrap()
            .read_to_string(&mut stdout)
            .unwrap();
        (stdout, self.child.wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_ready_line_names_real_ports_and_the_directory_as_given_and_signals_end_it_cleanly() {
    for signal in ["TERM", "INT"] {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::start(command(dir.path()));
        for name in ["grpc", "http"] {
            let address = process.field(name);
            assert!(
                address.starts_with("127.0.0.1:") && !address.ends_with(":0"),
                "{address}"
            );
            std::net::TcpStream::connect(address).unwrap();
        }
        assert_eq!(process.field("data"), "./siltstone-data");
        process.signal(signal);
        let (stdout, status) = process.end();
        assert_eq!(stdout, "", "the ready line stands alone");
        assert_eq!(status.code(), Some(0));
        assert!(dir.path().join("siltstone-data").is_dir(), "data is kept");
    }
}

#[test]
fn ephemeral_data_is_gone_after_a_signal() {
    let dir = tempfile::tempdir().unwrap();
    for place in [None, Some("here")] {
        let mut command = command(dir.path());
        command.arg("--ephemeral");
        if let Some(place) = place {
            command.args(["--data-dir", place]);
        }
        let process = Process::start(command);
        let data = dir.path().join(process.field("data"));
        assert!(data.is_dir());
        process.signal("TERM");
        assert_eq!(process.end().1.code(), Some(0));
        assert!(!data.exists());
    }
}

#[test]
fn a_server_that_lives_with_its_parent_stops_when_standard_input_closes() {
    type Ask = fn(&mut Command);
    let asked: [Ask; 3] = [
        |command| _ = command.arg("--exit-with-parent"),
        |command| _ = command.env("SILTSTONE_EXIT_WITH_PARENT", "true"),
        |command| _ = command.args(["--set", "exit_with_parent=true"]),
    ];
    for ask in asked {
        let dir = tempfile::tempdir().unwrap();
        let mut command = command(dir.path());
        command.arg("--ephemeral").stdin(Stdio::piped());
        ask(&mut command);
        let mut process = Process::start(command);
        let data = dir.path().join(process.field("data"));
        let mut stdin = process.child.stdin.take().unwrap();
        stdin.write_all(b"what is said to it means nothing\n").unwrap();
        assert!(data.is_dir());
        drop(stdin);
        assert_eq!(process.end().1.code(), Some(0));
        assert!(!data.exists());
    }
}

/// A line of the log begins with a time and a level.
fn is_of_the_log(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let time = words.next().unwrap_or_default();
    let level = words.next().unwrap_or_default();
    time.ends_with('Z') && time.contains('T') && ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].contains(&level)
}

#[test]
fn what_is_wrong_is_one_line_and_an_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    std::fs::write(dir.path().join("full"), "a file, not a directory").unwrap();
    std::fs::write(dir.path().join("x.toml"), "grpc.lisen = 'a:1'\n").unwrap();
    std::fs::write(dir.path().join("y.toml"), "topic_defaults.retention.ms = 'x'\n").unwrap();
    let _holder = Process::start(command(dir.path()));
    std::fs::create_dir(dir.path().join("strange")).unwrap();
    std::fs::write(dir.path().join("strange/meta.properties"), "version=7\n").unwrap();
    let in_use = format!("--set=grpc.listen={taken}");
    let http_in_use = format!("--set=http.listen={taken}");
    for (args, code, hint) in [
        (vec!["--set", "nonsense=1"], 2, "unknown setting nonsense"),
        (vec!["--config", "x.toml"], 2, "did you mean grpc.listen?"),
        (
            vec!["--config", "y.toml"],
            2,
            "topic_defaults.retention.ms in y.toml: ",
        ),
        (vec!["--set", "log=a=b=c"], 2, "log is"),
        (vec!["--data-dir", "full"], 1, "full"),
        (
            vec!["--data-dir", "full/inside"],
            1,
            "cannot use full/inside: cannot look at it: Not a directory (os error 20); ",
        ),
        (
            vec!["--data-dir", "missing/inside"],
            1,
            "choose another data directory, in a directory that exists and can be written",
        ),
        (
            vec!["--data-dir", "/proc/x"],
            1,
            "cannot use /proc/x: cannot create it: No such file or directory (os error 2); ",
        ),
        (vec!["--data-dir", "strange"], 1, "strange/meta.properties"),
        (vec![], 1, "siltstone-data"),
        (vec![in_use.as_str()], 1, "choose another --grpc-listen"),
        (vec![http_in_use.as_str()], 1, "choose another --http-listen"),
        (
            vec!["--ephemeral", "--data-dir", "full"],
            1,
            "leave it out for a temporary one",
        ),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_siltstone"));
        command
            .current_dir(dir.path())
            .args(["serve", "--set", "http.listen=127.0.0.1:0"])
            .args(&args);
        if code != 1 || !args.contains(&in_use.as_str()) {
            command.args(["--grpc-listen", "127.0.0.1:0"]);
        }
        let output = command.output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let told: Vec<_> = stderr.lines().filter(|line| !is_of_the_log(line)).collect();
        assert_eq!(told.len(), 1, "{args:?}: {stderr}");
        assert!(told[0].starts_with("siltstone: "), "{args:?}: {stderr}");
        assert!(told[0].contains(hint), "{args:?}: {stderr}");
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_variable_of_ours_that_is_no_text_is_refused_by_its_name() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let mut command = command(dir.path());
    command.env("SILTSTONE_DATA_DIR", std::ffi::OsStr::from_bytes(b"caf\xe9"));
    // The first of them comes before what is refused.
    for other in ["OF_OTHERS", "SILTSTONE_A", "SILTSTONE_SERVICE_HOST"] {
        command.env(other, std::ffi::OsStr::from_bytes(b"caf\xe9"));
    }
    let mut refused = Process::start(command);
    assert_eq!(refused.ready, "", "it does not start");
    let mut stderr = String::new();
    let mut pipe = refused.child.stderr.take().unwrap();
    pipe.read_to_string(&mut stderr).unwrap();
    assert_eq!(
        stderr,
        "siltstone: SILTSTONE_DATA_DIR is \"caf\\xE9\" in the environment, which is not UTF-8: set it to text, or use a flag\n"
    );
    assert_eq!(refused.end().1.code(), Some(2));
}

#[test]
fn a_line_of_garbage_in_the_directorys_identity_is_warned_about_and_kept() {
    let dir = tempfile::tempdir().unwrap();
    let run = || {
        let process = Process::start(command(dir.path()));
        process.signal("TERM");
        let mut stderr = String::new();
        let mut process = process;
        let mut pipe = process.child.stderr.take().unwrap();
        pipe.read_to_string(&mut stderr).unwrap();
        assert_eq!(process.end().1.code(), Some(0));
        stderr
    };
    assert!(!run().contains("WARN"));
    let file = dir.path().join("siltstone-data/meta.properties");
    let sound = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{sound}flotsam\n")).unwrap();
    let stderr = run();
    let warned = stderr.lines().find(|line| line.contains("WARN"));
    let warned = warned.expect("a warning");
    assert!(
        warned.contains("meta.properties") && warned.contains("flotsam"),
        "{warned}"
    );
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        format!("{sound}flotsam\n")
    );
}
