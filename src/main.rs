//! The `siltstone` command.

fn main() -> std::process::ExitCode {
    siltstone::cli::run()
}
