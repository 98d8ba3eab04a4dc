//! Reads the files of the tokens again while the server runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::auth::{Credentials, Directory};
use crate::config::TokenSources;

/// The pause between two reads. A Secret of Kubernetes appears in its pods within a minute or so.
pub const INTERVAL: Duration = Duration::from_secs(5);

/// What is said to everyone: the cause is for the log.
const PROBLEM: &str =
    "the files of the tokens cannot be used, and the tokens of before count: the log says why";

/// Takes over each change once two reads in a row agree: a file may be written in place. Files that cannot be used change
/// nothing.
pub(super) async fn reload(sources: TokenSources, credentials: Arc<Credentials>) {
    let mut seen: Option<Directory> = None;
    let mut cause = None;
    loop {
        sleep(INTERVAL).await;
        match read(&sources).await {
            Ok(directory) => {
                let is_new = *credentials.directory() != directory;
                if is_new && seen.as_ref() != Some(&directory) {
                    seen = Some(directory);
                    continue;
                }
                if is_new || cause.is_some() {
                    info!(tokens = directory.len(), "the tokens were read again");
                    credentials.replace(directory);
                }
                cause = None;
            }
            Err(problem) => {
                credentials.keep(PROBLEM.to_owned());
                if cause.as_ref() != Some(&problem) {
                    warn!("the tokens of before stay: {problem}");
                    cause = Some(problem);
                }
            }
        }
    }
}

async fn read(sources: &TokenSources) -> Result<Directory, String> {
    let sources = sources.clone();
    // A file may be on a disk that hangs.
    let loaded = timeout(
        INTERVAL,
        tokio::task::spawn_blocking(move || sources.load()),
    );
    match loaded.await {
        Ok(Ok(loaded)) => loaded.map_err(|error| error.to_string()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!(
            "reading takes longer than {} s",
            INTERVAL.as_secs()
        )),
    }
}
