//! Whether a request that brought no outputs is sent again, and by which way.
//!
//! Pure. Nothing is sent again that somebody has worked on: a tier may have done what it was asked for although it did not
//! answer, and what failed once fails again, most likely. What breaks within a moment on a connection that was kept was not
//! read, most likely, as the connection had been closed; to be wrong about that costs one more request, and no third.

use std::time::Duration;

/// How often a request is sent again that a server refused to begin with. The last time it gets a connection of its own.
const MOST_REFUSALS: u32 = 3;

/// Within how short a time a connection breaks that had been closed when it was used: the other side says so as soon as
/// something comes, which takes as long as connecting took. With room for machines that are busy.
const MOMENT: Duration = Duration::from_millis(50);

/// How a request ended that brought no outputs, as far as whoever sent it can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Nobody could be connected to.
    Unconnected,
    /// The server says that it did not begin with it.
    Refused,
    /// Its connection had been closed before it was read, most likely; others were under way by it, too.
    DiedAmongOthers,
    /// The same of a connection that it had for itself.
    Died,
    /// Somebody may have read it, or it cannot be sent at all.
    Read,
}

impl Fate {
    /// Of one request that was sent twice at once.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        let (one, two) = (self.rank(), other.rank());
        if one < two { other } else { self }
    }

    /// How much may have been done for it.
    const fn rank(self) -> u8 {
        match self {
            Self::Unconnected => 0,
            Self::Refused => 1,
            Self::DiedAmongOthers => 2,
            Self::Died => 3,
            Self::Read => 4,
        }
    }

    /// Whether it says nothing of who was asked.
    pub const fn is_lost(self) -> bool {
        matches!(self, Self::Refused | Self::DiedAmongOthers | Self::Died)
    }
}

/// What a server says of a request that it does not answer, apart from the connection's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Nothing.
    None,
    /// It was not begun with.
    NotBegun,
    /// It is ended.
    Reset,
}

/// What is known of a request that had a connection, and no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unheard {
    /// What the server said of it by itself.
    pub word: Word,
    /// The connection had brought answers when it was sent.
    pub reused: bool,
    /// Others were under way by the same connection.
    pub shared: bool,
    /// How long after it was sent it ended.
    pub after: Duration,
    /// How long it took to connect.
    pub connect: Duration,
}

impl Unheard {
    /// How it ended.
    pub fn fate(self) -> Fate {
        let Self { word, reused, shared, after, connect } = self;
        match word {
            Word::NotBegun => Fate::Refused,
            Word::Reset => Fate::Read,
            Word::None if !reused || after > MOMENT.max(connect * 2) => Fate::Read,
            Word::None if shared => Fate::DiedAmongOthers,
            Word::None => Fate::Died,
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
    /// The same for the last time: however that ends, it counts.
    Finally,
    /// The same, by a connection that no other request has used, nor will.
    Alone,
}

/// How often a request was sent again so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resent {
    elsewhere: bool,
    died: bool,
    refusals: u32,
}

impl Resent {
    /// How a request that ended like this is sent once more, if it is; `several` endpoints may be asked, or one.
    pub fn again(&mut self, fate: Fate, several: bool) -> Option<Again> {
        match fate {
            Fate::Unconnected if several && !self.elsewhere => {
                self.elsewhere = true;
                Some(Again::Elsewhere)
            }
            Fate::Refused if self.refusals < MOST_REFUSALS => {
                self.refusals += 1;
                Some(if self.refusals == MOST_REFUSALS { Again::Alone } else { Again::Anew })
            }
            Fate::Died | Fate::DiedAmongOthers if !self.died => {
                self.died = true;
                // Many may have died with it: they share one connection again.
                Some(if fate == Fate::Died { Again::Alone } else { Again::Finally })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Fate::{Died, DiedAmongOthers, Read, Refused, Unconnected};

    #[test]
    fn what_nobody_read_is_sent_again_and_nothing_else() {
        use Again::{Alone, Anew, Elsewhere, Finally};
        for (several, fates, expected) in [
            (false, &[Read][..], &[None][..]),
            (false, &[Unconnected], &[None]),
            (true, &[Unconnected, Unconnected], &[Some(Elsewhere), None]),
            (false, &[Refused; 4], &[Some(Anew), Some(Anew), Some(Alone), None]),
            // Once: what dies twice may be what kills.
            (false, &[Died, Died], &[Some(Alone), None]),
            (false, &[DiedAmongOthers, DiedAmongOthers], &[Some(Finally), None]),
            (false, &[DiedAmongOthers, Died], &[Some(Finally), None]),
            (true, &[Died, Unconnected, Died], &[Some(Alone), Some(Elsewhere), None]),
            (true, &[Refused, Died, Refused], &[Some(Anew), Some(Alone), Some(Anew)]),
            (true, &[Died, Read], &[Some(Alone), None]),
        ] {
            let mut resent = Resent::default();
            let again: Vec<_> = fates.iter().map(|fate| resent.again(*fate, several)).collect();
            assert_eq!(again, expected, "{fates:?}");
        }
    }

    #[test]
    fn a_connection_had_been_closed_that_says_so_within_a_moment() {
        let ms = Duration::from_millis;
        let closed = Unheard { word: Word::None, reused: true, shared: false, after: ms(3), connect: ms(1) };
        for (unheard, fate) in [
            (closed, Died),
            (Unheard { shared: true, ..closed }, DiedAmongOthers),
            (Unheard { after: ms(50), ..closed }, Died),
            // It was read, and worked on.
            (Unheard { after: ms(51), ..closed }, Read),
            (Unheard { after: ms(51), shared: true, ..closed }, Read),
            // The other side is far away.
            (Unheard { after: ms(400), connect: ms(200), ..closed }, Died),
            (Unheard { after: ms(401), connect: ms(200), ..closed }, Read),
            (Unheard { reused: false, ..closed }, Read),
            (Unheard { word: Word::Reset, shared: true, ..closed }, Read),
            // That is certain at any time.
            (
                Unheard { word: Word::NotBegun, reused: false, shared: true, after: ms(9_000), ..closed },
                Refused,
            ),
        ] {
            assert_eq!(unheard.fate(), fate, "{unheard:?}");
        }
    }

    #[test]
    fn what_one_of_two_may_have_read_was_read() {
        for (one, other, both) in [
            (Read, Died, Read),
            (Read, Unconnected, Read),
            (Died, Unconnected, Died),
            (DiedAmongOthers, Refused, DiedAmongOthers),
            (Refused, Unconnected, Refused),
            (Died, Died, Died),
            (Unconnected, Unconnected, Unconnected),
        ] {
            assert_eq!((one.and(other), other.and(one)), (both, both));
        }
    }
}
