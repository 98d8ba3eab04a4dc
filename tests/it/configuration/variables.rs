//! Names: the server refuses a misspelt variable, and accepts those that Kubernetes sets by itself.

use super::{accepted, all, port_in_use, refused, refused_line};
use crate::support::leasehold::run_to_exit;

#[test]
fn unknown_variable_is_refused_with_the_nearest_setting() {
    all([
        ("LEASEHOLD_SENTINEL_PASWORD", "LEASEHOLD_SENTINEL_PASSWORD?"),
        ("LEASEHOLD_SENTINEL", "LEASEHOLD_SENTINELS?"),
        ("LEASEHOLD_MAX_TTL", "LEASEHOLD_MAX_TTL_MS?"),
        ("LEASEHOLD_REDIS_PASSWD", "LEASEHOLD_REDIS_PASSWORD?"),
        ("LEASEHOLD_TLS_CA", "LEASEHOLD_TLS_CA_FILE?"),
    ]
    .map(|(misspelt, nearest)| refused(&[(misspelt, "x-y-z")], &[misspelt, nearest])));
}

#[test]
fn value_of_an_unknown_variable_is_not_repeated() {
    let env = [("LEASEHOLD_REDIS_PASWORD", "hunter2-in-the-wrong-place")];
    let (_, _, stderr) = run_to_exit(&[], env);
    assert!(!stderr.contains("hunter2"), "{stderr}");
}

#[test]
fn unknown_flag_is_refused() {
    for args in [&["--sentinel-pasword=x"][..], &["serve", "--bogus"]] {
        let (status, stdout, stderr) = run_to_exit(args, [("LEASEHOLD_STORE", "memory")]);
        let flag = args[args.len() - 1].split('=').next().unwrap_or_default();
        all([refused_line(status.code(), &stdout, &stderr, &[flag])]);
    }
}

#[test]
fn unknown_command_is_refused() {
    let (status, stdout, stderr) = run_to_exit(&["server"], [("LEASEHOLD_STORE", "memory")]);
    all([refused_line(status.code(), &stdout, &stderr, &["server"])]);
}

#[test]
fn service_links_of_kubernetes_are_no_settings() {
    all([accepted(&[
        ("LEASEHOLD_SERVICE_HOST", "10.0.0.1"),
        ("LEASEHOLD_SERVICE_PORT", "8080"),
        ("LEASEHOLD_SERVICE_PORT_HTTP", "8080"),
        ("LEASEHOLD_PORT", "tcp://10.0.0.1:8080"),
        ("LEASEHOLD_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("LEASEHOLD_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("LEASEHOLD_PORT_8080_TCP_PORT", "8080"),
        ("LEASEHOLD_PORT_8080_TCP_PROTO", "tcp"),
        ("LEASEHOLD_REDIS_SERVICE_PORT_TCP_REDIS", "6379"),
        ("LEASEHOLD_REDIS_PORT", "tcp://10.0.0.2:6379"),
        ("LEASEHOLD_REDIS_PORT_6379_TCP_ADDR", "10.0.0.2"),
        ("LEASEHOLD_DNS_PORT", "udp://10.0.0.3:53"),
    ])]);
}

#[test]
fn port_meant_as_a_setting_is_not_mistaken_for_a_service_link() {
    // The value of a service link is a URL. A number shows that the user mistook the name of a setting.
    all([
        ("LEASEHOLD_PORT", "9000"),
        ("LEASEHOLD_LISTEN_PORT", "9000"),
        ("LEASEHOLD_REDIS_PORT", "6379"),
    ]
    .map(|(name, value)| refused(&[(name, value)], &[name])));
}

#[test]
fn port_in_use_is_named_with_the_setting_that_changes_it() {
    let (_listener, addr) = port_in_use();
    let (status, stdout, stderr) = run_to_exit(&[], [("LEASEHOLD_LISTEN", &addr)]);
    assert_eq!((status.code(), &*stdout), (Some(1), ""), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains(&addr) && stderr.contains("LEASEHOLD_LISTEN"));
}

#[test]
fn address_of_another_machine_cannot_be_listened_on() {
    // An address from the documentation range, which no interface has.
    let env = [
        ("LEASEHOLD_LISTEN", "192.0.2.1:8080"),
        ("LEASEHOLD_INSECURE_OPEN", "true"),
        ("LEASEHOLD_STORE", "memory"),
    ];
    let (status, stdout, stderr) = run_to_exit(&[], env);
    assert_eq!((status.code(), &*stdout), (Some(1), ""), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("192.0.2.1:8080"), "{stderr}");
}

/// Compose files and charts write them so.
#[test]
fn empty_variable_is_as_unset_but_for_secrets() {
    let command = leasehold::cli::command();
    let settings = command.get_arguments().filter(|setting| {
        let is_secret = setting
            .get_value_names()
            .is_some_and(|names| names == ["SECRET"]);
        setting.get_env().is_some() && !is_secret
    });
    let names: Vec<&str> = settings
        .filter_map(|setting| setting.get_env()?.to_str())
        .collect();
    assert!(names.len() > 20, "{names:?}");
    let all_empty: Vec<(&str, &str)> = names.iter().map(|name| (*name, "")).collect();
    all(names
        .iter()
        .map(|name| accepted(&[("LEASEHOLD_STORE", "memory"), (name, "")]))
        .chain([accepted(&all_empty)])
        .collect::<Vec<_>>());
    let url = ("LEASEHOLD_REDIS_URL", "redis://127.0.0.1:1");
    all([accepted(&[url, ("LEASEHOLD_SENTINELS", "")])]);
}
