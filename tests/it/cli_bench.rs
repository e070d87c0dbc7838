//! `siltstone bench` as a process: what it leaves behind.

use crate::process::{signal, siltstone, told};

#[test]
fn a_benchmark_that_is_told_to_end_leaves_nothing_in_the_temporary_directory() {
    for (subject, kind) in [("produce", "INT"), ("lookup", "INT"), ("produce", "TERM")] {
        let dir = tempfile::tempdir().unwrap();
        let entries = || std::fs::read_dir(dir.path()).unwrap().count();
        let mut bench = siltstone(&["bench", subject]);
        let bench = bench.env("TMPDIR", dir.path()).spawn().unwrap();
        while entries() == 0 {
            std::thread::yield_now();
        }
        signal(&bench, kind);
        let (code, stdout, stderr) = told(&bench.wait_with_output().unwrap());
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        assert_eq!(stderr.lines().last(), Some("siltstone: interrupted"), "{stderr}");
        assert_eq!(entries(), 0, "{subject}, {kind}");
    }
}
