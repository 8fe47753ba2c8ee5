//! Notices that a folder has changed, or may have.
//!
//! Inotify where it is to be had, and a look every minute for what it cannot see (a link whose target changed, a
//! network file system). Says nothing about what changed: the caller reads the whole folder again.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

/// How long the watch waits for what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    /// A change is reported when nothing more has happened for this long.
    pub(super) quiet: Duration,
    /// It is reported after this long even if more keeps happening.
    pub(super) patience: Duration,
    /// How often the folder is looked at although inotify reports nothing.
    pub(super) rescan: Duration,
    /// How often it is looked at without inotify, or while it does not exist.
    pub(super) poll: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(100),
            patience: Duration::from_secs(2),
            rescan: Duration::from_mins(1),
            poll: Duration::from_secs(2),
        }
    }
}

/// Opens a watch on a folder that exists; replaced in tests.
type Open = fn(&Path, Arc<Signal>) -> notify::Result<RecommendedWatcher>;

/// A folder under watch, which need not exist (yet, or any more).
pub(super) struct Watch {
    dir: PathBuf,
    timing: Timing,
    open: Open,
    signal: Arc<Signal>,
    state: State,
    /// Something happened that has not been reported, and when it must be at the latest.
    pending: Option<Instant>,
    /// The lack of inotify has been told.
    warned: bool,
    next_look: Instant,
}

/// What the watcher's own thread tells the watch.
#[derive(Default)]
struct Signal {
    dir: PathBuf,
    happened: Notify,
    /// The folder itself was moved or removed, or the watcher broke: it has to be opened again.
    lost: AtomicBool,
}

enum State {
    /// Inotify reports on the folder with this identity.
    Watching { identity: Identity, _watcher: RecommendedWatcher },
    /// There is no such folder, or no inotify.
    Polling,
}

/// Device and inode: tells a folder from its successor at the same path.
type Identity = (u64, u64);

impl Watch {
    /// Watches a folder from now on.
    pub(super) fn start(dir: &Path, timing: Timing) -> Self {
        Self::start_with(dir, timing, open)
    }

    fn start_with(dir: &Path, timing: Timing, open: Open) -> Self {
        // The watcher reports absolute paths; the folder's own is compared with them.
        let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
        let signal = Arc::new(Signal { dir: dir.clone(), ..Signal::default() });
        let mut watch = Self {
            dir,
            timing,
            open,
            signal,
            state: State::Polling,
            pending: None,
            warned: false,
            next_look: Instant::now(),
        };
        watch.renew();
        watch
    }

    /// Waits until the folder has changed, or may have. What happens after the return is reported by the next call;
    /// a call that is dropped loses nothing.
    pub(super) async fn changed(&mut self) {
        if self.pending.is_none() {
            // A time-out is the regular look.
            let _ = timeout_at(self.next_look, self.signal.happened.notified()).await;
        }
        let latest = *self.pending.get_or_insert_with(|| Instant::now() + self.timing.patience);
        loop {
            let quiet = latest.min(Instant::now() + self.timing.quiet);
            let more = timeout_at(quiet, self.signal.happened.notified()).await.is_ok();
            if !more || Instant::now() >= latest {
                break;
            }
        }
        self.renew();
        self.pending = None;
    }

    /// Sees to it that the folder that is at the path now is the one under watch.
    fn renew(&mut self) {
        let found = identity(&self.dir);
        let lost = self.signal.lost.swap(false, Ordering::AcqRel);
        match (&self.state, found) {
            (State::Watching { identity, .. }, Some(found)) if *identity == found && !lost => {}
            (_, None) => self.state = State::Polling,
            (_, Some(identity)) => {
                self.state = State::Polling;
                match (self.open)(&self.dir, Arc::clone(&self.signal)) {
                    Ok(watcher) => {
                        self.state = State::Watching { identity, _watcher: watcher };
                        if std::mem::take(&mut self.warned) {
                            info!(dir = %self.dir.display(), "the manifests are watched again");
                        }
                    }
                    Err(error) => self.warn(&error),
                }
            }
        }
        self.next_look = Instant::now()
            + match self.state {
                State::Watching { .. } => self.timing.rescan,
                State::Polling => self.timing.poll,
            };
    }

    fn warn(&mut self, error: &notify::Error) {
        // Gone between the look and the watch: not for lack of inotify.
        if identity(&self.dir).is_some() && !std::mem::replace(&mut self.warned, true) {
            warn!(
                dir = %self.dir.display(),
                %error,
                poll = ?self.timing.poll,
                "the manifests cannot be watched and are polled instead; raise fs.inotify.max_user_watches or max_user_instances"
            );
        }
    }
}

fn identity(dir: &Path) -> Option<Identity> {
    std::fs::metadata(dir).ok().filter(std::fs::Metadata::is_dir).map(|found| (found.dev(), found.ino()))
}

fn open(dir: &Path, signal: Arc<Signal>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |event| signal.receive(&event))?;
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

impl Signal {
    fn receive(&self, event: &notify::Result<Event>) {
        let lost = match event {
            Ok(event) if is_a_look(event.kind) => return,
            Ok(event) => event.paths.contains(&self.dir),
            Err(_) => true,
        };
        if lost {
            self.lost.store(true, Ordering::Release);
        }
        self.happened.notify_one();
    }
}

/// Whether somebody only looked at a file, as the agent itself does after every change.
fn is_a_look(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use notify::event::CreateKind;
    use tempfile::TempDir;
    use tokio::time::timeout;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);
    /// No regular look comes to help.
    const BY_EVENTS: Timing = Timing {
        quiet: Duration::from_millis(50),
        patience: Duration::from_secs(1),
        rescan: Duration::from_hours(1),
        poll: Duration::from_hours(1),
    };

    fn no_inotify(_: &Path, _: Arc<Signal>) -> notify::Result<RecommendedWatcher> {
        Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch))
    }

    async fn changed(watch: &mut Watch) {
        timeout(DEADLINE, watch.changed()).await.expect("a change in time");
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_of_changes_is_reported_once() {
        let dir = TempDir::new().expect("a folder");
        let mut watch = Watch::start(dir.path(), BY_EVENTS);
        for _ in 0..20 {
            watch.signal.receive(&Ok(Event::new(EventKind::Create(CreateKind::File))));
        }
        changed(&mut watch).await;
        assert!(timeout(DEADLINE, watch.changed()).await.is_err(), "reported twice");
    }

    #[tokio::test]
    async fn reading_a_file_is_no_change() {
        let dir = TempDir::new().expect("a folder");
        let mut watch = Watch::start(dir.path(), BY_EVENTS);
        let file = dir.path().join("a.yaml");
        fs::write(&file, "a: 1").expect("written");
        changed(&mut watch).await;
        let settled = Duration::from_millis(500);
        while timeout(settled, watch.changed()).await.is_ok() {}
        fs::read(&file).expect("read");
        assert!(timeout(settled, watch.changed()).await.is_err(), "a look was taken for a change");
    }

    #[tokio::test]
    async fn changes_that_never_end_are_reported_nevertheless() {
        let dir = TempDir::new().expect("a folder");
        let mut watch = Watch::start(dir.path(), BY_EVENTS);
        let signal = Arc::clone(&watch.signal);
        let busy = tokio::spawn(async move {
            let mut interval = tokio::time::interval(Duration::from_millis(5));
            loop {
                interval.tick().await;
                signal.happened.notify_one();
            }
        });
        changed(&mut watch).await;
        busy.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_without_patience_is_told_in_the_end() {
        let dir = TempDir::new().expect("a folder");
        let mut watch = Watch::start(dir.path(), BY_EVENTS);
        watch.signal.happened.notify_one();
        let mut calls = 1;
        while timeout(BY_EVENTS.quiet / 10, watch.changed()).await.is_err() {
            calls += 1;
        }
        assert!(calls <= 200, "{calls} calls");
    }

    #[tokio::test(start_paused = true)]
    async fn without_inotify_the_folder_is_polled() {
        let dir = TempDir::new().expect("a folder");
        let mut watch = Watch::start_with(dir.path(), Timing::default(), no_inotify);
        assert!(watch.warned, "told");
        let begin = Instant::now();
        for _ in 0..10 {
            watch.changed().await;
        }
        let each = begin.elapsed() / 10;
        assert!(each >= Duration::from_secs(2) && each < Duration::from_secs(5), "{each:?}");
        assert!(watch.warned, "told once");

        // As soon as there is room again, inotify takes over.
        watch.open = open;
        watch.changed().await;
        assert!(!watch.warned && matches!(watch.state, State::Watching { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_folder_is_looked_at_once_a_minute() {
        let dir = TempDir::new().expect("a folder");
        let mut watch = Watch::start(dir.path(), Timing::default());
        let begin = Instant::now();
        for _ in 0..10 {
            watch.changed().await;
        }
        assert!(begin.elapsed() >= Duration::from_mins(10), "{:?}", begin.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_absent_folder_is_not_for_lack_of_inotify() {
        let dir = TempDir::new().expect("a folder");
        let mut watch = Watch::start(&dir.path().join("nowhere"), Timing::default());
        watch.changed().await;
        assert!(!watch.warned);
        fs::create_dir(dir.path().join("nowhere")).expect("made");
        watch.changed().await;
        assert!(matches!(watch.state, State::Watching { .. }));
    }
}
