//! Reads the files of the tokens again while the server runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use crate::auth::Credentials;
use crate::config::TokenSources;

/// The pause between two reads. A Secret of Kubernetes appears in its pods within a minute or so.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// Takes over each change. Files that cannot be used change nothing.
pub(super) async fn reload(sources: TokenSources, credentials: Arc<Credentials>) {
    loop {
        sleep(INTERVAL).await;
        let sources = sources.clone();
        // A file may be on a slow disk.
        let loaded = tokio::task::spawn_blocking(move || sources.load()).await;
        let loaded = loaded.map_err(|error| error.to_string());
        let problem_before = credentials.problem();
        match loaded.and_then(|loaded| loaded.map_err(|error| error.to_string())) {
            Ok(directory) => {
                if *credentials.directory() != directory || problem_before.is_some() {
                    info!(tokens = directory.len(), "the tokens were read again");
                    credentials.replace(directory);
                }
            }
            Err(problem) => {
                if problem_before.as_ref() != Some(&problem) {
                    warn!("the tokens of before stay: {problem}");
                    credentials.keep(problem);
                }
            }
        }
    }
}
