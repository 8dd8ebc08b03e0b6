//! Arguments to exit code; everything else is the library's.

use std::process::ExitCode;

fn main() -> ExitCode {
    evenkeel::cli::main()
}
