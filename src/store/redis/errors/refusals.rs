//! The table of refusals: what Redis, a Sentinel or TLS says, what it means, and what to do.
//!
//! Redis words an error in one way for a client and in another for a script, and its versions and relatives in others
//! again. So a row names parts of the text; the first row of which the text has a part counts.

use super::target::{Node, Refused};
use crate::store::redis::options::Address;
use crate::telemetry::FailureCause;

/// What became of the operations that met a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing was done.
    None,
    /// Nothing was done, because Redis has no memory left.
    OutOfMemory,
    /// Nothing was done, because Redis cannot save it.
    NotPersisting,
}

/// A kind of refusal.
pub(crate) struct Refusal {
    /// Parts of the text; one is enough.
    said: &'static [&'static str],
    /// What the metrics count.
    pub(crate) cause: FailureCause,
    pub(crate) effect: Effect,
    /// Whether the server must send no further operations to the node.
    pub(crate) disqualifies: bool,
    /// What is wrong, and what to do.
    pub(crate) sentence: fn(&Refused<'_>) -> String,
}

/// The kind of refusal that a text means.
pub(crate) fn find(said: &str) -> Option<&'static Refusal> {
    TABLE
        .iter()
        .find(|refusal| refusal.said.iter().any(|part| said.contains(part)))
}

/// Whether an error means that the ACL user lacks a permission, or that a command does not exist.
pub(crate) fn is_about_commands(said: &str) -> bool {
    find(said).is_some_and(|refusal| {
        refusal.said == PERMISSION.said || refusal.said == MISSING_COMMAND.said
    })
}

/// What a Sentinel at the address of a data node is.
pub(super) fn sentinel(at: &Address) -> String {
    format!("{at} is a Sentinel, not a Redis data node: set LEASEHOLD_SENTINELS to its address")
}

/// What a node of a Redis Cluster is.
pub(super) fn cluster(at: &Address) -> String {
    format!(
        "{at} is part of a Redis Cluster, which Leasehold does not support: use Sentinel or one Redis"
    )
}

/// The node works again without a change of its configuration.
const PASSING: Refusal = Refusal {
    said: &[],
    cause: FailureCause::NotReady,
    effect: Effect::None,
    disqualifies: false,
    sentence: |_| String::new(),
};

/// TLS failed before a command was sent.
const TLS: Refusal = Refusal {
    cause: FailureCause::Connection,
    ..PASSING
};

/// The node works again only after a change of a configuration.
const UNFIT: Refusal = Refusal {
    cause: FailureCause::Access,
    disqualifies: true,
    ..PASSING
};

const PERMISSION: Refusal = Refusal {
    said: &[
        "NOPERM",
        "no permissions to",
        "The user executing the script",
        "ACL failure in script",
    ],
    sentence: |refused| {
        format!(
            "the user {} has too few permissions on {} ({}): {}",
            refused.target.username,
            refused.at,
            refused.said,
            refused.target.acl_advice()
        )
    },
    ..UNFIT
};

const MISSING_COMMAND: Refusal = Refusal {
    said: &[
        "unknown command",
        "Unknown command",
        "Unknown Redis command",
        "unknown subcommand",
        "Unknown subcommand",
        "unsupported command",
        "command not supported",
    ],
    cause: FailureCause::Other,
    sentence: |refused| {
        let at = refused.at;
        if matches!(refused.target.node, Node::Sentinel) {
            return format!(
                "{at} is a Redis data node, not a Sentinel: set LEASEHOLD_SENTINELS to the Sentinels (usually port 26379), or \
                 LEASEHOLD_REDIS_URL to a Redis without Sentinels"
            );
        }
        format!(
            "{at} lacks a command that Leasehold needs ({}): it is renamed or disabled there (rename-command), or a proxy in \
             between hides it: make it available",
            refused.said
        )
    },
    ..UNFIT
};

static TABLE: &[Refusal] = &[
    // TLS: the certificate of the node.
    Refusal {
        said: &["UnknownIssuer"],
        sentence: |refused| {
            format!(
                "this server does not trust the authority that signed the certificate of {}: set LEASEHOLD_TLS_CA_FILE to the \
                 certificate of that authority",
                refused.at
            )
        },
        ..TLS
    },
    Refusal {
        said: &["not valid for name", "NotValidForName"],
        sentence: |refused| {
            format!(
                "the certificate of {at} does not have the name {host} ({said}): use an address that the certificate has, \
                 or issue a certificate that has this name or IP address (subjectAltName)",
                at = refused.at,
                host = refused.at.host,
                said = refused.said
            )
        },
        ..TLS
    },
    Refusal {
        said: &["certificate expired", "invalid peer certificate: Expired"],
        sentence: |refused| {
            format!(
                "the certificate of {} has expired: renew it, and check the clock of this machine",
                refused.at
            )
        },
        ..TLS
    },
    Refusal {
        said: &["certificate not valid yet", "NotValidYet"],
        sentence: |refused| {
            format!(
                "the certificate of {} is not valid yet: check the clock of this machine, and the certificate's dates",
                refused.at
            )
        },
        ..TLS
    },
    Refusal {
        said: &["CaUsedAsEndEntity"],
        sentence: |refused| {
            format!(
                "the certificate of {} is that of an authority (CA:TRUE), not of a server: issue one for the server, or set \
                 LEASEHOLD_TLS_CA_FILE to exactly this certificate",
                refused.at
            )
        },
        ..TLS
    },
    Refusal {
        said: &["invalid peer certificate"],
        sentence: |refused| {
            format!(
                "the certificate of {} cannot be used ({}): issue another one",
                refused.at, refused.said
            )
        },
        ..TLS
    },
    // TLS: the client certificate.
    Refusal {
        said: &["CertificateRequired"],
        sentence: |refused| {
            format!(
                "{} requires a client certificate: set LEASEHOLD_TLS_CERT_FILE and LEASEHOLD_TLS_KEY_FILE",
                refused.at
            )
        },
        ..TLS
    },
    Refusal {
        said: &["received fatal alert: CertificateExpired"],
        sentence: |refused| {
            format!(
                "{} rejected the client certificate, which has expired: renew the one in LEASEHOLD_TLS_CERT_FILE",
                refused.at
            )
        },
        ..TLS
    },
    // TLS: versions and ciphers. TLS 1.2 also asks for a client certificate with the alert of a failed handshake.
    Refusal {
        said: &[
            "ProtocolVersion",
            "HandshakeFailure",
            "InsufficientSecurity",
            "peer is incompatible",
        ],
        sentence: |refused| {
            let certificate = if refused.target.client_certificate {
                ""
            } else {
                "; or it requires a client certificate: set LEASEHOLD_TLS_CERT_FILE and LEASEHOLD_TLS_KEY_FILE"
            };
            format!(
                "{} and this server have no TLS version or cipher in common ({}): allow TLS 1.2 or 1.3 there (tls-protocols) \
                 with a cipher that has forward secrecy (tls-ciphers, tls-ciphersuites){certificate}",
                refused.at, refused.said
            )
        },
        ..TLS
    },
    Refusal {
        said: &[
            "alert: BadCertificate",
            "alert: UnsupportedCertificate",
            "alert: CertificateRevoked",
            "alert: CertificateUnknown",
            "alert: UnknownCA",
            "alert: AccessDenied",
            "alert: DecryptError",
        ],
        sentence: |refused| {
            let at = refused.at;
            format!(
                "{at} does not accept the client certificate ({}): set LEASEHOLD_TLS_CERT_FILE to a certificate from an \
                 authority that {at} trusts",
                refused.said
            )
        },
        ..TLS
    },
    Refusal {
        said: &["received fatal alert"],
        sentence: |refused| {
            format!(
                "{} ended the TLS handshake ({}): see its log, and check its TLS settings and {}",
                refused.at, refused.said, refused.target.address_setting
            )
        },
        ..TLS
    },
    Refusal {
        said: &["received corrupt message", "InvalidContentType"],
        sentence: |refused| {
            format!(
                "{} does not use TLS: use redis:// and leave {} unset, or set the TLS port",
                refused.at, refused.target.tls_setting
            )
        },
        ..TLS
    },
    // The login.
    Refusal {
        said: &["without any password configured", "no password is set"],
        sentence: |refused| {
            format!(
                "{at} has no password: set one there (requirepass), or leave {settings} unset",
                at = refused.at,
                settings = refused.target.credentials
            )
        },
        ..UNFIT
    },
    Refusal {
        said: &["WRONGPASS", "invalid password"],
        sentence: |refused| {
            format!(
                "{} rejected the user name or the password: check {}",
                refused.at, refused.target.credentials
            )
        },
        ..UNFIT
    },
    Refusal {
        said: &["NOAUTH", "Authentication required"],
        sentence: |refused| {
            format!(
                "{} requires a password: set {}",
                refused.at, refused.target.credentials
            )
        },
        ..UNFIT
    },
    Refusal {
        said: &["unning in protected mode"],
        sentence: |refused| {
            format!(
                "{} is in protected mode and rejects other hosts: set a password there (requirepass) and in {}",
                refused.at, refused.target.credentials
            )
        },
        ..UNFIT
    },
    PERMISSION,
    // The wrong kind of node.
    Refusal {
        said: &[
            "unknown command 'SELECT'",
            "unknown command `SELECT`",
            "unknown command SELECT",
        ],
        cause: FailureCause::Other,
        sentence: |refused| {
            format!(
                "{}; or it is a Redis without SELECT, which has only database 0: leave LEASEHOLD_REDIS_DB unset",
                sentinel(refused.at)
            )
        },
        ..UNFIT
    },
    Refusal {
        said: &["cluster mode", "CROSSSLOT", "CLUSTERDOWN"],
        cause: FailureCause::Other,
        sentence: |refused| cluster(refused.at),
        ..UNFIT
    },
    MISSING_COMMAND,
    Refusal {
        said: &["DB index is out of range", "invalid DB index"],
        cause: FailureCause::Other,
        sentence: |refused| {
            format!(
                "{} has no database {}: set LEASEHOLD_REDIS_DB (or the number in LEASEHOLD_REDIS_URL) to one that exists; a \
                 Redis Cluster has only database 0, and Leasehold does not support it",
                refused.at,
                refused.target.db()
            )
        },
        ..UNFIT
    },
    Refusal {
        said: &["PROTOCOL "],
        cause: FailureCause::Other,
        sentence: |refused| {
            format!(
                "{} does not use the protocol of Redis: check host and port, {}",
                refused.at, refused.target.address_setting
            )
        },
        ..UNFIT
    },
    // The state of the node.
    Refusal {
        said: &["OOM "],
        cause: FailureCause::OutOfMemory,
        effect: Effect::OutOfMemory,
        sentence: |refused| {
            format!(
                "{} is out of memory and rejects writes: raise maxmemory, or delete other data",
                refused.at
            )
        },
        ..PASSING
    },
    Refusal {
        said: &["MISCONF "],
        cause: FailureCause::NotPersisting,
        effect: Effect::NotPersisting,
        sentence: |refused| {
            format!(
                "{} rejects writes because it cannot save to disk: see its log, and free disk space",
                refused.at
            )
        },
        ..PASSING
    },
    Refusal {
        said: &["NOREPLICAS "],
        sentence: |refused| {
            format!(
                "{} rejects writes because it has fewer replicas than its min-replicas-to-write: start the replicas, or set \
                 min-replicas-to-write to 0, because Leasehold itself asks for confirmations (LEASEHOLD_REPLICA_ACKS)",
                refused.at
            )
        },
        ..PASSING
    },
    Refusal {
        said: &["BUSY ", "busy running a script"],
        sentence: |refused| {
            format!(
                "{} is busy with a script or function that has run for too long: end it there with SCRIPT KILL or FUNCTION \
                 KILL, and find the program that sent it",
                refused.at
            )
        },
        ..PASSING
    },
    Refusal {
        said: &["LOADING "],
        sentence: |refused| {
            format!(
                "{} is loading its data: wait until it has finished",
                refused.at
            )
        },
        ..PASSING
    },
    Refusal {
        said: &["READONLY "],
        cause: FailureCause::NotMaster,
        sentence: |refused| {
            format!(
                "{} is a replica now and rejects writes: a failover is in progress, or the address is not that of a master",
                refused.at
            )
        },
        ..PASSING
    },
    Refusal {
        said: &["MASTERDOWN "],
        sentence: |refused| {
            format!(
                "{} is a replica that has lost its master: a failover is in progress, or the address is not that of a master",
                refused.at
            )
        },
        ..PASSING
    },
    Refusal {
        said: &["max number of clients", "max number of connections"],
        cause: FailureCause::Connection,
        sentence: |refused| {
            format!(
                "{} has too many clients: raise maxclients there, or end clients that leave connections open",
                refused.at
            )
        },
        ..PASSING
    },
    Refusal {
        said: &["TRYAGAIN ", "NOSCRIPT "],
        sentence: |refused| {
            format!(
                "{} rejected a command for a moment ({}): wait, and see its log if this lasts",
                refused.at, refused.said
            )
        },
        ..PASSING
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::redis::errors::target::Target;
    use crate::store::redis::options::Endpoint;

    /// The words of several versions of Redis and Valkey, for clients and for scripts.
    #[test]
    fn refusal_has_its_cause_and_effect() {
        for (said, cause, effect) in [
            (
                "READONLY You can't write against a read only replica.",
                FailureCause::NotMaster,
                Effect::None,
            ),
            (
                "NOREPLICAS Not enough good replicas to write.",
                FailureCause::NotReady,
                Effect::None,
            ),
            (
                "LOADING Redis is loading the dataset in memory",
                FailureCause::NotReady,
                Effect::None,
            ),
            (
                "BUSY Redis is busy running a script.",
                FailureCause::NotReady,
                Effect::None,
            ),
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                FailureCause::OutOfMemory,
                Effect::OutOfMemory,
            ),
            (
                "ERR Error running script (call to f_0): @user_script:1: -OOM command not allowed",
                FailureCause::OutOfMemory,
                Effect::OutOfMemory,
            ),
            (
                "MISCONF Errors writing to the AOF file",
                FailureCause::NotPersisting,
                Effect::NotPersisting,
            ),
            (
                "NOPERM this user has no permissions",
                FailureCause::Access,
                Effect::None,
            ),
            (
                "NOAUTH Authentication required.",
                FailureCause::Access,
                Effect::None,
            ),
            (
                "The user executing the script can't run this command",
                FailureCause::Access,
                Effect::None,
            ),
            (
                "ERR ACL failure in script: User app has no permissions to run the 'time' command",
                FailureCause::Access,
                Effect::None,
            ),
            (
                "ERR unknown command 'EVALSHA', with args beginning with: ",
                FailureCause::Other,
                Effect::None,
            ),
            (
                "ERR Unknown Redis command called from script",
                FailureCause::Other,
                Effect::None,
            ),
        ] {
            let refusal = find(said).expect(said);
            assert_eq!((refusal.cause, refusal.effect), (cause, effect), "{said}");
        }
        assert!(find("attempt to index a nil value").is_none());
    }

    /// Refusals that a test cannot provoke on a real node.
    #[test]
    fn sentence_says_what_is_wrong_and_what_to_do() {
        let at = Address {
            host: "redis".to_owned(),
            port: 6379,
        };
        let endpoint = Endpoint::default();
        let target = Target::sentinel(&endpoint);
        for (said, disqualifies, words) in [
            (
                "DENIED Redis is running in protected mode because protected mode is enabled",
                true,
                ["protected mode", "requirepass"],
            ),
            (
                "DENIED Running in protected mode because protected mode is enabled",
                true,
                ["protected mode", "LEASEHOLD_SENTINEL_PASSWORD"],
            ),
            (
                "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
                false,
                ["has lost its master", "failover"],
            ),
            (
                "TRYAGAIN Multiple keys request during rehashing of slot",
                false,
                ["for a moment", "TRYAGAIN"],
            ),
            (
                "received fatal alert: UnrecognisedName",
                false,
                ["TLS handshake", "UnrecognisedName"],
            ),
            (
                "received fatal alert: InternalError",
                false,
                ["TLS handshake", "see its log"],
            ),
            (
                "ERR Client sent AUTH, but no password is set",
                true,
                ["has no password", "LEASEHOLD_SENTINEL_PASSWORD"],
            ),
            (
                "ERR invalid password",
                true,
                ["rejected", "LEASEHOLD_SENTINEL_USERNAME"],
            ),
        ] {
            let refusal = find(said).expect(said);
            assert_eq!(refusal.disqualifies, disqualifies, "{said}");
            let sentence = (refusal.sentence)(&Refused {
                target: &target,
                at: &at,
                said: said.to_owned(),
            });
            for word in words {
                assert!(sentence.contains(word), "no {word:?} in {sentence}");
            }
        }
    }
}
