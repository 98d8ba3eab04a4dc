//! Fields of JSON bodies that need a form of their own.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use jiff::Timestamp as Instant3339;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::http::problem::Problem;
use crate::lock::lease::{Metadata, Timestamp, millis};

/// A number of milliseconds as the client wrote it. Each notation of a whole number counts: `30000`, `30000.0`, `3e4`.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct Milliseconds(Box<RawValue>);

impl Milliseconds {
    /// # Errors
    /// A problem that names the field, the unit, the bounds, and the setting of the upper one.
    pub(super) fn within(
        &self,
        bounds: RangeInclusive<Duration>,
        field: &str,
        setting: &str,
    ) -> Result<Duration, Problem> {
        let number = self.0.get().parse::<f64>().ok();
        let whole = number.filter(|number| number.fract() == 0.0);
        // The sum turns -0.0 into 0.
        let whole = whole.and_then(|whole| format!("{:.0}", whole + 0.0).parse().ok());
        let duration = whole.map(Duration::from_millis);
        duration
            .filter(|duration| bounds.contains(duration))
            .ok_or_else(|| {
                Problem::invalid(format!(
                    "{field} must be a whole number of milliseconds from {} to {} ({setting})",
                    millis(*bounds.start()),
                    millis(*bounds.end())
                ))
            })
    }
}

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
