//! The bounds and the forms of the values.

use super::*;

#[test]
fn lease_id_is_read_back_and_never_printed() {
    let id = LeaseId::from_bytes([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
    assert_eq!(id.expose(), "000102030405060708090a0b0c0d0eff");
    assert_eq!(LeaseId::parse(&id.expose()), Some(id));
    assert_eq!(format!("{id:?}"), "LeaseId(redacted)");
    for bad in [
        "",
        "+00102030405060708090a0b0c0d0eff",
        "000102030405060708090A0B0C0D0EFF",
        "000102030405060708090a0b0c0d0eff0",
        "00",
    ] {
        assert_eq!(LeaseId::parse(bad), None, "{bad}");
    }
}

#[test]
fn moments_are_counted_in_microseconds_and_never_overflow() {
    let at = Timestamp::from_micros;
    assert_eq!(at(7).as_micros(), 7);
    assert_eq!(at(7).after(Duration::from_millis(2)), at(2007));
    assert_eq!(at(7).after(Duration::MAX), at(u64::MAX));
    assert_eq!(at(2007).since(at(7)), Duration::from_millis(2));
    assert_eq!(at(7).since(at(2007)), Duration::ZERO);
    let nearly_three = Duration::from_nanos(2_999_999);
    assert_eq!((micros(nearly_three), millis(nearly_three)), (2999, 2));
    assert_eq!(
        (micros(Duration::MAX), millis(Duration::MAX)),
        (u64::MAX, u64::MAX)
    );
}

#[test]
fn digest_and_values_are_kept_as_they_are() {
    let digest = Digest::from_bytes([0xab; 16]);
    assert_eq!(
        (digest.to_bytes(), digest.to_hex()),
        ([0xab; 16], "ab".repeat(16))
    );
    let second = Duration::from_secs(1);
    assert_eq!(Ttl::stored(second).get(), second);
    assert_eq!(Holder::new("me".into()).expect("a holder").as_str(), "me");
    let pairs = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    assert_eq!(Metadata::stored(pairs.clone()).pairs(), &pairs);
    assert_eq!(FencingToken::new(5).expect("a token").get(), 5);
}

#[test]
fn ttl_has_both_bounds() {
    let max = Duration::from_secs(3600);
    assert!(Ttl::new(Duration::from_millis(99), max).is_none());
    assert!(Ttl::new(Duration::from_millis(100), max).is_some());
    assert!(Ttl::new(max, max).is_some());
    assert!(Ttl::new(max + Duration::from_millis(1), max).is_none());
}

#[test]
fn holder_and_metadata_have_their_bounds() {
    assert!(Holder::new("é".repeat(128)).is_some());
    assert!(Holder::new("é".repeat(129)).is_none());
    assert!(Holder::new(String::new()).is_none());
    assert!(Holder::new("a\tb".into()).is_none());
    let pairs = |n: usize| (0..n).map(|i| (format!("k{i}"), String::new())).collect();
    assert!(Metadata::new(pairs(32)).is_some());
    assert!(Metadata::new(pairs(33)).is_none());
    assert!(Metadata::new([("k".into(), "v".repeat(4095))].into()).is_some());
    assert!(Metadata::new([("k".into(), "v".repeat(4096))].into()).is_none());
    assert!(Metadata::new([(String::new(), "v".into())].into()).is_none());
    assert!(Metadata::new([("k".into(), "a\nb".into())].into()).is_none());
}

#[test]
fn tokens_stay_exact_in_a_double() {
    assert_eq!(FencingToken::MAX, 9_007_199_254_740_991);
    assert!(FencingToken::new(FencingToken::MAX).is_some());
    assert!(FencingToken::new(FencingToken::MAX + 1).is_none());
}
