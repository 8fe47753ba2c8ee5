//! What headers say of codings.

use crate::Coding;

/// A body in a coding that is not spoken here, or in several at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the body's content-encoding is none that this agent reads; send one of {}, once, or the body as it is",
    Coding::NAMES
)]
pub struct Unsupported;

/// The coding of a body, by the values of its `Content-Encoding` headers; none where it is in none.
pub fn of_content<'a>(values: impl IntoIterator<Item = &'a str>) -> Result<Option<Coding>, Unsupported> {
    let mut found = None;
    for name in members(values).filter(|name| !name.eq_ignore_ascii_case("identity")) {
        let coding = Coding::parse(name).ok_or(Unsupported)?;
        // Unpacked once, it might be a bomb again.
        if found.replace(coding).is_some() {
            return Err(Unsupported);
        }
    }
    Ok(found)
}

/// What an answer may be in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// The coding that is asked for before others.
    pub coding: Option<Coding>,
    /// It has to be in that one: the client does not take it as it is.
    pub is_required: bool,
}

/// Among codings that a client likes as much as each other, the one that costs least.
const PREFERRED: [Coding; 3] = [Coding::Zstd, Coding::Gzip, Coding::Deflate];

impl Accepted {
    /// By the values of a request's `Accept-Encoding` headers (RFC 9110, section 12.5.3). A coding is taken only where it
    /// is named: `*` asks for none in particular. What cannot be read says nothing.
    pub fn of<'a>(values: impl IntoIterator<Item = &'a str>) -> Self {
        let mut named: Vec<(&str, u16)> = Vec::new();
        for member in members(values).take(MOST_NAMED) {
            let (name, weight) = member.split_once(';').unwrap_or((member, ""));
            if let Some(weight) = quality(weight) {
                named.push((name.trim(), weight));
            }
        }
        let weight_of = |name: &str| {
            named.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, weight)| *weight)
        };
        let identity = weight_of("identity");
        // Without a word about it, it is as welcome as anything (and worth less than what is named).
        let is_refused = identity.or_else(|| weight_of("*")) == Some(0);
        let best = PREFERRED
            .into_iter()
            .filter_map(|coding| {
                let old_name = if coding == Coding::Gzip { weight_of("x-gzip") } else { None };
                Some((coding, weight_of(coding.as_str()).or(old_name)?))
            })
            .filter(|(_, weight)| *weight > 0 && *weight >= identity.unwrap_or(0))
            // The first of the heaviest.
            .reduce(|best, next| if next.1 > best.1 { next } else { best });
        Self { coding: best.map(|(coding, _)| coding), is_required: best.is_some() && is_refused }
    }
}

/// More names than there are codings.
const MOST_NAMED: usize = 32;

/// The members of a list that may be spread over several headers; empty ones do not count.
fn members<'a>(values: impl IntoIterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    let members = values.into_iter().flat_map(|value| value.split(','));
    members.map(str::trim).filter(|member| !member.is_empty())
}

/// A weight in thousandths: `q=0.5`, or nothing for 1.
fn quality(text: &str) -> Option<u16> {
    let text = text.trim();
    if text.is_empty() {
        return Some(1000);
    }
    let (name, value) = text.split_once('=')?;
    let (whole, fraction) = value.trim().split_once('.').unwrap_or((value.trim(), ""));
    let is_number = matches!(whole, "0" | "1") && fraction.len() <= 3;
    if !name.trim().eq_ignore_ascii_case("q")
        || !is_number
        || !fraction.bytes().all(|byte| byte.is_ascii_digit())
    {
        return None;
    }
    let thousandths: u16 = format!("{whole}{fraction:0<3}").parse().ok()?;
    (thousandths <= 1000).then_some(thousandths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_in_one_coding_or_in_none() {
        for (values, expected) in [
            (&[][..], Ok(None)),
            (&[""], Ok(None)),
            (&["identity"], Ok(None)),
            (&["gzip"], Ok(Some(Coding::Gzip))),
            (&["X-GZip"], Ok(Some(Coding::Gzip))),
            (&[" Deflate "], Ok(Some(Coding::Deflate))),
            (&["identity, zstd,"], Ok(Some(Coding::Zstd))),
            (&["gzip, gzip"], Err(Unsupported)),
            (&["gzip", "zstd"], Err(Unsupported)),
            (&["br"], Err(Unsupported)),
            (&["gzip;q=1"], Err(Unsupported)),
            (&["*"], Err(Unsupported)),
        ] {
            assert_eq!(of_content(values.iter().copied()), expected, "{values:?}");
        }
        assert!(Unsupported.to_string().contains("gzip, deflate, zstd"), "{Unsupported}");
    }

    #[test]
    fn an_answer_is_in_what_the_client_likes_best() {
        let (gzip, zstd) = (Some(Coding::Gzip), Some(Coding::Zstd));
        for (values, coding, is_required) in [
            (&[][..], None, false),
            (&[""], None, false),
            (&["identity"], None, false),
            (&["gzip"], gzip, false),
            (&["deflate"], Some(Coding::Deflate), false),
            (&["gzip, deflate, br, zstd"], zstd, false),
            (&["gzip;q=1.0, zstd;q=0.9"], gzip, false),
            (&["zstd;q=0.1", "gzip;q=0.2"], gzip, false),
            (&["GZIP ; Q=0.5, identity;q=0.5"], gzip, false),
            (&["gzip;q=0.4, identity;q=0.5"], None, false),
            (&["gzip;q=0"], None, false),
            (&["x-gzip"], gzip, false),
            (&["br, *"], None, false),
            (&["*;q=0"], None, false),
            (&["gzip, *;q=0"], gzip, true),
            (&["gzip;q=0.5, identity;q=0"], gzip, true),
            (&["identity;q=0"], None, false),
            (&["gzip;q=2, zstd;q=x, deflate;level=9"], None, false),
            (&["gzip;q=1.001"], None, false),
            (&["gzip;q=0.0001"], None, false),
            (&["gzip;q=0.001"], gzip, false),
        ] {
            let accepted = Accepted::of(values.iter().copied());
            assert_eq!(accepted, Accepted { coding, is_required }, "{values:?}");
        }
    }
}
