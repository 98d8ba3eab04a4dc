//! `leasehold token`: makes tokens for the file with principals.

use clap::{Args, Subcommand};

use crate::auth::{Grant, entry};
use crate::random;

/// Marks a token, so that programs which search for secrets find it.
const TOKEN_PREFIX: &str = "lh_";

/// Make tokens for the file LEASEHOLD_AUTH_FILE
#[derive(Args)]
pub(super) struct TokenArguments {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Subcommand)]
enum TokenCommand {
    /// Print a new token, and the entry of its principal for the file
    New {
        /// Name of the principal
        #[arg(long)]
        id: String,
        /// What it may do, and on which keys, such as ci/:acquire,read; can be repeated
        #[arg(long = "grant", value_name = "PREFIX:VERB,…", required = true)]
        grants: Vec<Grant>,
    },
}

impl TokenArguments {
    /// What to print.
    pub(super) fn run(&self) -> Result<String, String> {
        let TokenCommand::New { id, grants } = &self.command;
        let token = format!("{TOKEN_PREFIX}{}", random::id());
        let entry = entry(id, &token, grants)?;
        Ok(format!("secret: {token}\n\n{entry}"))
    }
}
