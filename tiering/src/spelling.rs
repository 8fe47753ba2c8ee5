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

/// Whether a header asks for privacy and means nothing else: each word in its name does, as in `privacy`, `X-Private` or
/// `require-privacy`. Others have words of their own beside it: `private-token`, `sec-private-state-token`,
/// `access-control-request-private-network`.
pub(crate) fn asks_for_privacy(name: &str) -> bool {
    if !speaks_of_privacy(name) {
        return false;
    }
    let name = name.as_bytes();
    let rest = behind(name, EXTENSION).unwrap_or(name);
    let letters: Vec<u8> =
        rest.iter().filter(|byte| !is_separator(**byte)).map(u8::to_ascii_lowercase).collect();
    letters.len() <= MOST_LETTERS && (is_made_of_words(&letters) || differing(&letters, PRIVACY) <= SLIPS)
}

/// `privacy_required`, without what separates its words.
const PRIVACY: &[u8] = b"privacyrequired";
/// How many letters of it may be wrong, missing or too many.
const SLIPS: usize = 2;
/// The longest name that is looked at, without separators.
const MOST_LETTERS: usize = 40;
/// What people write beside `privacy` where they ask for it.
const ASKING: [&[u8]; 22] = [
    b"privacy",
    b"private",
    b"required",
    b"requires",
    b"require",
    b"request",
    b"requested",
    b"is",
    b"be",
    b"must",
    b"keep",
    b"stay",
    b"only",
    b"mode",
    b"level",
    b"needed",
    b"on",
    b"enabled",
    b"enforced",
    b"enforce",
    b"strict",
    b"data",
];

fn is_separator(byte: u8) -> bool {
    matches!(byte, b'-' | b'_' | b'.')
}

/// Whether `letters` are some of the words in [`ASKING`], one after another.
fn is_made_of_words(letters: &[u8]) -> bool {
    let mut reached = [false; MOST_LETTERS + 1];
    reached[0] = true;
    for at in 0..letters.len() {
        if !reached[at] {
            continue;
        }
        for word in ASKING.iter().filter(|word| letters[at..].starts_with(word)) {
            reached[at + word.len()] = true;
        }
    }
    reached[letters.len()]
}

/// How many letters differ (Levenshtein).
fn differing(one: &[u8], other: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (place, letter) in one.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], place + 1);
        for (column, against) in other.iter().enumerate() {
            let change = diagonal + usize::from(letter != against);
            diagonal = row[column + 1];
            row[column + 1] = change.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
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
    fn a_header_asks_for_privacy_where_every_word_of_its_name_does() {
        for name in [
            "privacy",
            "Private",
            "x-privacy",
            "X-Private",
            "is-private",
            "private-required",
            "require-privacy",
            "privacy-require",
            "privacy-requierd",
            "privacyrequird",
            "x_keep_private",
            "data-privacy-mode",
        ] {
            assert!(asks_for_privacy(name), "{name}");
        }
        // Headers and metadata that browsers, forges and clouds send.
        for name in [
            "permissions-policy",
            "privacy-policy",
            "private-token",
            "x-private-key",
            "sec-private-state-token",
            "sec-private-state-token-lifetime",
            "access-control-request-private-network",
            "access-control-allow-private-network",
            "x-ms-privatelink-id",
            "x-ms-private-link-service",
            "sec-gpc",
            "dnt",
            "private-user-agent-data-of-somebody-who-writes-long-names",
        ] {
            assert!(!asks_for_privacy(name), "{name}");
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
