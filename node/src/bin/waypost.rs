//! The one binary: the node and everything a person says to it.

fn main() -> std::process::ExitCode {
    waypost::cli::main()
}
