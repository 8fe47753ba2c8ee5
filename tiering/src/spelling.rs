//! Names that are ours but for their spelling: what a request states under one of them would be passed over without a
//! word, and a private request would leave the node.

/// What people put before a name of ours.
const PREFIXES: [&str; 2] = ["x_terrace_", "terrace_"];
/// What they put before any name that a standard does not have.
const EXTENSION: &str = "x_";

/// The one of these `known` names that `name` spells otherwise: in other letters' case, with `-` or nothing in the place of
/// `_`, or behind `terrace-`.
pub(crate) fn meant(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let bare = PREFIXES.iter().find_map(|prefix| behind(name.as_bytes(), prefix));
    let is = |text: &[u8], known: &str| behind(text, known).is_some_and(<[u8]>::is_empty);
    let spelt = |known: &&str| is(name.as_bytes(), known) || bare.is_some_and(|bare| is(bare, known));
    known.iter().copied().find(|known| spelt(known))
}

/// The same behind `x-`, as headers were once called: for names that mean nothing else.
pub(crate) fn meant_by_extension(name: &str, known: &[&'static str]) -> Option<&'static str> {
    let bare = behind(name.as_bytes(), EXTENSION)?;
    known.iter().copied().find(|known| behind(bare, known).is_some_and(<[u8]>::is_empty))
}

/// Whether `name` has to do with privacy, however it is written: `private`, or `privacy_required` with a letter too few.
pub(crate) fn speaks_of_privacy(name: &str) -> bool {
    const ROOTS: [&[u8]; 2] = [b"privac", b"privat"];
    let has = |root: &[u8]| name.as_bytes().windows(root.len()).any(|part| part.eq_ignore_ascii_case(root));
    ROOTS.into_iter().any(has)
}

/// Whether `name` has what all our headers begin with, in some spelling.
pub(crate) fn is_prefixed(name: &str) -> bool {
    PREFIXES.iter().any(|prefix| behind(name.as_bytes(), prefix).is_some())
}

/// Whether `name` begins as no name does but ours: with `terrace-`, or with `x-` before that.
pub(crate) fn claims_to_be_ours(name: &str) -> bool {
    let name = name.as_bytes();
    let begins = |name: &[u8]| {
        let (start, separator) = (name.get(.."terrace".len()), name.get("terrace".len()));
        start.is_some_and(|start| start.eq_ignore_ascii_case(b"terrace"))
            && matches!(separator, Some(b'-' | b'_'))
    };
    begins(name) || behind(name, EXTENSION).is_some_and(begins)
}

/// What follows a spelling of `known` in `text`.
fn behind<'a>(text: &'a [u8], known: &str) -> Option<&'a [u8]> {
    let mut rest = text;
    for byte in known.bytes() {
        rest = match rest.split_first() {
            Some((b'-' | b'_', behind)) if byte == b'_' => behind,
            // Nothing stands for it: privacyRequired.
            _ if byte == b'_' => rest,
            Some((first, behind)) if first.eq_ignore_ascii_case(&byte) => behind,
            _ => return None,
        };
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KNOWN: [&str; 3] = ["max_latency_ms", "privacy_required", "tier"];

    #[test]
    fn a_name_is_known_however_it_is_spelt_and_no_other_is() {
        for name in [
            "privacy_required",
            "Privacy_Required",
            "privacy-required",
            "privacyRequired",
            "PRIVACYREQUIRED",
            "terrace_privacy_required",
            "terrace-privacy-required",
            "Terrace-Privacy_required",
            "terracePrivacyRequired",
            "x-terrace-privacy-required",
        ] {
            assert_eq!(meant(name, &KNOWN), Some("privacy_required"), "{name}");
        }
        assert_eq!(meant("maxLatencyMs", &KNOWN), Some("max_latency_ms"));
        assert_eq!(meant("terrace-tier", &KNOWN), Some("tier"));
        for name in [
            "",
            "-",
            "terrace",
            "terrace-",
            "privacy",
            "privacy__required",
            "privacy_required_",
            "_privacy_required",
            "my_privacy_required",
            "ti-er",
            "tiers",
            "frontier",
            "max_latency",
            "prıvacy_required",
        ] {
            assert_eq!(meant(name, &KNOWN), None, "{name}");
        }
    }

    #[test]
    fn whatever_is_said_of_privacy_is_heard() {
        for name in ["private", "is_private", "Privacy", "privacy_requierd", "privacy_require", "PRIVATE"] {
            assert!(speaks_of_privacy(name), "{name}");
        }
        for name in ["", "priv", "privilege", "pri_vacy", "pivot", "prıvate"] {
            assert!(!speaks_of_privacy(name), "{name}");
        }
    }

    #[test]
    fn what_begins_with_our_name_claims_to_be_ours() {
        for (name, is_ours) in [
            ("terrace-x", true),
            ("Terrace_", true),
            ("terrace", false),
            ("terraces", false),
            ("x-terrace-x", true),
            ("X_Terrace-x", true),
            ("x-terrace", false),
            ("y-terrace-x", false),
            ("tërrace-x", false),
        ] {
            assert_eq!(claims_to_be_ours(name), is_ours, "{name}");
        }
    }

    #[test]
    fn what_means_nothing_else_is_known_behind_x() {
        for name in ["x-privacy-required", "X-Privacy_Required", "xPrivacyRequired", "x_privacyrequired"] {
            assert_eq!(meant_by_extension(name, &KNOWN), Some("privacy_required"), "{name}");
        }
        for name in ["privacy-required", "x-", "x-privacy", "x-privacy-required-by", "xx-privacy-required"] {
            assert_eq!(meant_by_extension(name, &KNOWN), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_spelling_of_a_known_name_slips_through(
            known in prop::sample::select(KNOWN.to_vec()),
            prefix in prop::sample::select(vec!["", "terrace-", "terrace_", "x-terrace-", "X_Terrace_"]),
            choices in prop::collection::vec(0..3, 16),
        ) {
            let spelt: String = known.chars().zip(choices).map(|(letter, choice)| match (letter, choice) {
                ('_', 0) => "_".to_owned(),
                ('_', 1) => "-".to_owned(),
                ('_', _) => String::new(),
                (letter, 0) => letter.to_ascii_uppercase().to_string(),
                (letter, _) => letter.to_string(),
            }).collect();
            let name = format!("{prefix}{spelt}");
            prop_assert_eq!(meant(&name, &KNOWN), Some(known));
        }
    }
}
