//! Fields of JSON bodies that need a form of their own.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp as Instant3339;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use crate::lock::lease::{Metadata, Timestamp};

/// Refuses `null`: a field may only be absent.
pub(super) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// Refuses a map with a repeated name: the parser would silently drop one of the two values.
pub(super) fn distinct_pairs<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of strings")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = BTreeMap::new();
            while let Some((name, value)) = map.next_entry::<String, String>()? {
                if pairs.len() >= Metadata::MAX_PAIRS {
                    return Err(serde::de::Error::custom(format_args!(
                        "at most {} pairs",
                        Metadata::MAX_PAIRS
                    )));
                }
                if let Some(_first) = pairs.insert(name, value) {
                    return Err(serde::de::Error::custom("a name occurs twice"));
                }
            }
            Ok(pairs)
        }
    }
    from.deserialize_map(Pairs).map(Some)
}

pub(in crate::http) fn rfc3339(moment: Timestamp) -> String {
    let micros = i64::try_from(moment.as_micros()).unwrap_or(i64::MAX);
    // RFC 3339 ends with the year 9999, and no lease lasts until then.
    Instant3339::from_microsecond(micros)
        .map_or_else(|_| String::new(), |instant| format!("{instant:.3}"))
}
