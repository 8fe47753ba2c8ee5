//! Conditions of a status, as `metav1.Condition` asks for them. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use terrace_fleet::Verdict;

/// Who can be told a condition: everything of it but the time.
pub fn condition(
    type_: &str,
    verdict: &Verdict,
    generation: Option<i64>,
    before: &[Condition],
    now: Timestamp,
) -> Condition {
    let status = if verdict.holds { "True" } else { "False" };
    let unchanged = before.iter().find(|known| known.type_ == type_ && known.status == status);
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.clone(),
        // What the schema allows.
        message: verdict.message.chars().take(8_192).collect(),
        observed_generation: generation,
        // Moves only when the status does.
        last_transition_time: unchanged.map_or(Time(now), |known| known.last_transition_time.clone()),
    }
}

/// The reason that a condition had.
pub fn reason_of<'a>(conditions: &'a [Condition], type_: &str) -> Option<(&'a str, &'a str)> {
    let condition = conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((&condition.status, &condition.reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_moves_only_with_the_status() {
        let (early, late) = (Timestamp::from_second(1).unwrap(), Timestamp::from_second(2).unwrap());
        let verdict =
            |holds, reason: &str| Verdict { holds, reason: reason.to_owned(), message: String::new() };
        let first = condition("Ready", &verdict(false, "Progressing"), Some(1), &[], early);
        let before = [first.clone()];
        let second = condition("Ready", &verdict(false, "DigestMismatch"), Some(2), &before, late);
        assert_eq!(second.last_transition_time, first.last_transition_time);
        assert_eq!((&*second.reason, second.observed_generation), ("DigestMismatch", Some(2)));
        let third = condition("Ready", &verdict(true, "AllReady"), Some(2), &before, late);
        assert_eq!(third.last_transition_time, Time(late));
        assert_eq!(reason_of(&before, "Ready"), Some(("False", "Progressing")));
    }
}
