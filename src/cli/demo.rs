//! `evenkeel demo`: the whole thing with no other program.

/// Options of the command.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Do not send the gentle background traffic that makes the page move
    #[arg(long)]
    pub no_traffic: bool,
    /// Run one origin server only, with this name (used by docker/compose.yaml)
    #[arg(long, hide = true, requires = "address")]
    pub origin: Option<String>,
    /// Where that origin listens
    #[arg(long, hide = true, requires = "origin")]
    pub address: Option<std::net::SocketAddr>,
}

/// Runs until Ctrl-C. The exit code.
pub fn run(_options: Options) -> i32 {
    todo!()
}
