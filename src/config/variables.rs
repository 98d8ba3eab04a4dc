//! Detects unknown `LEASEHOLD_*` variables.

use crate::config::error::{ConfigError, wrong};

/// Refuses unknown `LEASEHOLD_*` variables: the server would otherwise silently ignore a misspelt setting.
///
/// # Errors
/// The error names the unknown variable and the most similar setting.
pub fn refuse_unknown_variables<'a>(
    known: &[String],
    variables: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<(), ConfigError> {
    for (name, value) in variables {
        let ours = name.starts_with("LEASEHOLD_") && !known.iter().any(|k| k == name);
        if ours && !is_service_link(name, value) {
            let nearest = known.iter().max_by(|a, b| {
                let likeness = |known: &str| strsim::jaro_winkler(known, name);
                likeness(a).total_cmp(&likeness(b))
            });
            return wrong(format!(
                "{name} is not a setting; did you mean {}?",
                nearest.map_or("another", String::as_str)
            ));
        }
    }
    Ok(())
}

/// Recognizes a variable that Kubernetes sets in every pod for a Service whose name begins with `leasehold`.
fn is_service_link(name: &str, value: &str) -> bool {
    if name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
    {
        return true;
    }
    if let Some((_, port)) = name.split_once("_PORT_") {
        let mut parts = port.split('_');
        let number = parts
            .next()
            .is_some_and(|number| number.parse::<u16>().is_ok());
        return number
            && parts
                .next()
                .is_some_and(|protocol| matches!(protocol, "TCP" | "UDP" | "SCTP"));
    }
    // A misspelt port setting has a number as its value; Kubernetes sets a URL.
    let is_url = ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|scheme| value.starts_with(scheme));
    name.ends_with("_PORT") && is_url
}
