//! Protection against web pages that send requests through their visitor's browser.
//!
//! A browser sends the requests of any page to any address, without a preflight where a request looks like a form's.
//! Any page could acquire locks of a server without a token. Two checks prevent that. A request that changes something
//! must not come from a page of another origin. A server on a loopback address answers to loopback names only: a page
//! can point its own name to that address (DNS rebinding), and has the server's origin then.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use axum::extract::Request;
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderName, Method, Uri};

use crate::http::problem::{Kind, Problem};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A host name that the server accepts in `Host`: without a port, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AllowedHost(String);

/// The origin of a page: scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AllowedOrigin {
    scheme: String,
    host: String,
    port: u16,
}

/// The host names and origins that requests of browsers may carry.
#[derive(Clone, Debug)]
pub struct Browsers {
    /// Names besides those of loopback; `None` accepts every name.
    hosts: Option<HashSet<AllowedHost>>,
    origins: HashSet<AllowedOrigin>,
}

impl Browsers {
    /// The rules of a server that listens on `address`. Off loopback it accepts every name unless `hosts` has some.
    #[must_use]
    pub fn new(address: IpAddr, hosts: &[AllowedHost], origins: &[AllowedOrigin]) -> Self {
        let checked = address.is_loopback() || !hosts.is_empty();
        Self {
            hosts: checked.then(|| hosts.iter().cloned().collect()),
            origins: origins.iter().cloned().collect(),
        }
    }

    /// Refuses a request that names another server.
    pub(super) fn check_host(&self, request: &Request) -> Result<(), Problem> {
        let Some(hosts) = &self.hosts else {
            return Ok(());
        };
        // A request in absolute form names its server twice. A request without a name is HTTP/1.0: browsers send none.
        let header = host_header(request);
        let named = request.uri().authority().cloned().into_iter().chain(header);
        let is_allowed = |authority: &Authority| {
            let host = normalized(authority.host());
            is_loopback(&host) || hosts.contains(&AllowedHost(host))
        };
        if named.into_iter().all(|authority| is_allowed(&authority)) {
            return Ok(());
        }
        Err(Problem::new(
            Kind::MisdirectedRequest,
            "this server does not answer to the host name in Host; LEASEHOLD_ALLOWED_HOSTS adds names to localhost and 127.0.0.1",
        ))
    }

    /// Refuses a request that changes something and comes from a page of another origin.
    pub(super) fn check_origin(&self, request: &Request) -> Result<(), Problem> {
        let reads = [Method::GET, Method::HEAD, Method::OPTIONS];
        if reads.contains(request.method()) || self.is_own_or_allowed(request) {
            return Ok(());
        }
        Err(Problem::new(
            Kind::Forbidden,
            "a page of another origin must not change locks; LEASEHOLD_ALLOWED_ORIGINS permits origins",
        ))
    }

    fn is_own_or_allowed(&self, request: &Request) -> bool {
        let headers = request.headers();
        let (mut sites, mut origins) = (
            headers.get_all(SEC_FETCH_SITE).iter(),
            headers.get_all(ORIGIN).iter(),
        );
        let origin = match (origins.next(), origins.next()) {
            (Some(origin), None) => origin.to_str().ok().and_then(|text| text.parse().ok()),
            _ => None,
        };
        if origin
            .as_ref()
            .is_some_and(|origin| self.origins.contains(origin))
        {
            return true;
        }
        match (sites.next(), sites.next()) {
            (Some(site), None) => matches!(site.as_bytes(), b"same-origin" | b"none"),
            (Some(_), Some(_)) => false,
            // Not a browser, or one that does not tell: then a page's origin must be the server's own.
            (None, _) if !headers.contains_key(ORIGIN) => true,
            (None, _) => match (origin, host_header(request)) {
                (Some(origin), Some(host)) => origin.is_of(&host),
                _ => false,
            },
        }
    }
}

impl AllowedOrigin {
    /// Whether this origin is the server's own; `host` is the `Host` header of the request.
    fn is_of(&self, host: &Authority) -> bool {
        let port = host.port_u16().or(default_port(&self.scheme));
        normalized(host.host()) == self.host && port == Some(self.port)
    }
}

impl FromStr for AllowedHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bracketed = text
            .parse::<Ipv6Addr>()
            .map(|address| format!("[{address}]"));
        let text = bracketed.as_deref().unwrap_or(text);
        match Authority::from_str(text) {
            Ok(host) if host.host() == text && !text.contains('*') => Ok(Self(normalized(text))),
            _ => Err("a host name or address without a port, such as locks.example.com".to_owned()),
        }
    }
}

impl FromStr for AllowedOrigin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || "an origin, such as https://locks.example.com or http://10.1.2.3:8080".to_owned();
        let uri = Uri::from_str(text).map_err(|_| wrong())?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(wrong());
        };
        // An origin has no path, not even `/`.
        let is_origin = text.len() == scheme.len() + "://".len() + authority.as_str().len();
        let has_others = authority.as_str().contains(['@', '*']);
        let names_port = authority.as_str().len() > authority.host().len();
        let port = if names_port {
            authority.port_u16()
        } else {
            default_port(scheme)
        };
        match port {
            Some(port) if is_origin && !has_others => Ok(Self {
                scheme: scheme.to_owned(),
                host: normalized(authority.host()),
                port,
            }),
            _ => Err(wrong()),
        }
    }
}

/// The `Host` header. The gate has checked that it is a valid one.
fn host_header(request: &Request) -> Option<Authority> {
    let host = request.headers().get(HOST)?;
    Authority::try_from(host.as_bytes()).ok()
}

fn normalized(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = |address: IpAddr| address.to_canonical().is_loopback();
    host == "localhost" || address.parse().is_ok_and(is_loopback)
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}
