//! Whether a request that brought no outputs is sent again, and by which way.
//!
//! Pure. Nothing is sent again that somebody may have read: a tier may have done what it was asked for although it did not
//! answer, and what failed once fails again, most likely.

/// How often a request is sent again whose connection had been closed. What is sent by then may get one that another request
/// used meanwhile, and that is closed as well; the last time it gets its own.
const MOST_DEATHS: u32 = 3;

/// How a request ended that brought no outputs, as far as whoever sent it can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nobody could be connected to.
    Unconnected,
    /// Its connection had been closed before it was read, most likely.
    Died,
    /// Somebody may have read it, or it cannot be sent at all.
    Read,
}

impl Fate {
    /// Of one request that was sent twice at once.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Read, _) | (_, Self::Read) => Self::Read,
            (Self::Died, _) | (_, Self::Died) => Self::Died,
            (Self::Unconnected, Self::Unconnected) => Self::Unconnected,
        }
    }
}

/// By which way a request is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// To another endpoint.
    Elsewhere,
    /// By another connection.
    Anew,
    /// By a connection that no other request has used, nor will.
    Alone,
}

/// How often a request was sent again so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resent {
    elsewhere: bool,
    deaths: u32,
}

impl Resent {
    /// How a request that ended like this is sent once more, if it is; `several` endpoints may be asked, or one.
    pub fn again(&mut self, fate: Fate, several: bool) -> Option<Again> {
        match fate {
            Fate::Unconnected if several && !self.elsewhere => {
                self.elsewhere = true;
                Some(Again::Elsewhere)
            }
            Fate::Died if self.deaths < MOST_DEATHS => {
                self.deaths += 1;
                Some(if self.deaths == MOST_DEATHS { Again::Alone } else { Again::Anew })
            }
            Fate::Unconnected | Fate::Died | Fate::Read => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Fate::{Died, Read, Unconnected};

    #[test]
    fn what_nobody_read_is_sent_again_and_nothing_else() {
        for (several, fates, expected) in [
            (false, &[Read][..], &[None][..]),
            (false, &[Unconnected], &[None]),
            (true, &[Unconnected, Unconnected], &[Some(Again::Elsewhere), None]),
            (
                false,
                &[Died, Died, Died, Died],
                &[Some(Again::Anew), Some(Again::Anew), Some(Again::Alone), None],
            ),
            (
                true,
                &[Died, Unconnected, Died],
                &[Some(Again::Anew), Some(Again::Elsewhere), Some(Again::Anew)],
            ),
            (true, &[Died, Read], &[Some(Again::Anew), None]),
        ] {
            let mut resent = Resent::default();
            let again: Vec<_> = fates.iter().map(|fate| resent.again(*fate, several)).collect();
            assert_eq!(again, expected, "{fates:?}");
        }
    }

    #[test]
    fn what_one_of_two_may_have_read_was_read() {
        for (one, other, both) in [
            (Read, Died, Read),
            (Read, Unconnected, Read),
            (Died, Unconnected, Died),
            (Died, Died, Died),
            (Unconnected, Unconnected, Unconnected),
        ] {
            assert_eq!((one.and(other), other.and(one)), (both, both));
        }
    }
}
