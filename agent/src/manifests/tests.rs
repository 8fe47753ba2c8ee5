use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

/// Far longer than any change takes to be seen; a test that waits so long has failed.
const DEADLINE: Duration = Duration::from_secs(20);

/// Allows everything.
struct Anything;

impl Admission for Anything {
    fn source(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn tier(&self, _: &str) -> Result<(), String> {
        Ok(())
    }
}

fn policy(name: &str) -> String {
    format!("apiVersion: terrace.dev/v1alpha1\nkind: TierPolicy\nmetadata:\n  name: {name}\nspec: {{}}\n")
}

fn follow(dir: &Path) -> Follower {
    Follower::new(dir, "default", Arc::new(Anything))
}

/// The names of the policies in a folder; `None` where it cannot be read.
async fn next(follower: &mut Follower) -> Option<Vec<String>> {
    let reading = timeout(DEADLINE, follower.next()).await.expect("a reading in time").ok()?;
    let sets = reading.files.into_values().filter_map(Result::ok);
    Some(sets.flat_map(|good| good.set.policies).filter_map(|policy| policy.metadata.name).collect())
}

/// Reads until the folder holds what is expected: a change may be seen in more than one step.
async fn until(follower: &mut Follower, expected: Option<&[&str]>) {
    let expected = expected.map(|names| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
    while next(follower).await != expected {}
}

#[tokio::test]
async fn changes_of_a_folder_are_followed() {
    let dir = TempDir::new().expect("a folder");
    let file = dir.path().join("a.yaml");
    let mut follower = follow(dir.path());
    assert_eq!(next(&mut follower).await, Some(vec![]));

    fs::write(&file, policy("written")).expect("written");
    until(&mut follower, Some(&["written"])).await;

    let other = dir.path().join(".a.yaml.new");
    fs::write(&other, policy("renamed")).expect("written");
    fs::rename(&other, &file).expect("renamed");
    until(&mut follower, Some(&["renamed"])).await;

    fs::remove_file(&file).expect("removed");
    until(&mut follower, Some(&[])).await;
}

#[tokio::test]
async fn a_config_map_that_is_swapped_is_followed() {
    let dir = TempDir::new().expect("a folder");
    let version = |name: &str, policies: &[&str]| {
        fs::create_dir(dir.path().join(name)).expect("a folder");
        let text: Vec<String> = policies.iter().map(|name| policy(name)).collect();
        fs::write(dir.path().join(name).join("a.yaml"), text.join("---\n")).expect("a file");
    };
    version("..1", &["a"]);
    symlink("..1", dir.path().join("..data")).expect("a link");
    symlink("..data/a.yaml", dir.path().join("a.yaml")).expect("a link");
    let mut follower = follow(dir.path());
    assert_eq!(next(&mut follower).await, Some(vec!["a".to_owned()]));

    version("..2", &["a", "b"]);
    symlink("..2", dir.path().join("..data_tmp")).expect("a link");
    fs::rename(dir.path().join("..data_tmp"), dir.path().join("..data")).expect("swapped");
    fs::remove_dir_all(dir.path().join("..1")).expect("removed");
    until(&mut follower, Some(&["a", "b"])).await;
}

#[tokio::test]
async fn a_folder_that_is_deleted_and_made_again_is_followed() {
    let parent = TempDir::new().expect("a folder");
    let dir = parent.path().join("manifests");
    let mut follower = follow(&dir);
    assert_eq!(next(&mut follower).await, None);

    for round in ["first", "second"] {
        fs::create_dir(&dir).expect("made");
        fs::write(dir.join("a.yaml"), policy(round)).expect("written");
        until(&mut follower, Some(&[round])).await;
        // Seen without waiting for the next regular look: the new folder is under watch.
        fs::write(dir.join("a.yaml"), policy("again")).expect("written");
        until(&mut follower, Some(&["again"])).await;
        fs::remove_dir_all(&dir).expect("removed");
        until(&mut follower, None).await;
    }
}

#[tokio::test]
async fn a_folder_that_is_replaced_at_once_is_followed() {
    let parent = TempDir::new().expect("a folder");
    let dir = parent.path().join("manifests");
    fs::create_dir(&dir).expect("made");
    let mut follower = follow(&dir);
    assert_eq!(next(&mut follower).await, Some(vec![]));

    let other = parent.path().join("other");
    fs::create_dir(&other).expect("made");
    fs::write(other.join("a.yaml"), policy("a")).expect("written");
    fs::rename(&dir, parent.path().join("old")).expect("moved away");
    fs::rename(&other, &dir).expect("moved in");
    until(&mut follower, Some(&["a"])).await;
    fs::write(dir.join("b.yaml"), policy("b")).expect("written");
    until(&mut follower, Some(&["a", "b"])).await;
}

#[tokio::test]
async fn what_changed_while_nobody_waited_is_not_lost() {
    let dir = TempDir::new().expect("a folder");
    let mut follower = follow(dir.path());
    assert_eq!(next(&mut follower).await, Some(vec![]));
    fs::write(dir.path().join("a.yaml"), policy("a")).expect("written");
    // Calls that are dropped at every stage: before the change is seen, while it settles, while it is read.
    for patience in (0..150).step_by(10) {
        if let Ok(reading) = timeout(Duration::from_millis(patience), follower.next()).await {
            assert_eq!(reading.expect("a reading").files.len(), 1);
            return;
        }
    }
    until(&mut follower, Some(&["a"])).await;
}

#[tokio::test]
async fn a_bad_file_is_told_once_and_what_it_held_goes_on() {
    let dir = TempDir::new().expect("a folder");
    let file = dir.path().join("a.yaml");
    fs::write(&file, policy("a")).expect("written");
    let mut follower = follow(dir.path());
    let first = follower.next().await.expect("a reading");
    let (before, faults) = accept(&Accepted::default(), &first);
    assert_eq!((before.policies().count(), before.models().count(), faults.len()), (1, 0, 0));

    fs::write(&file, policy("a").replace("spec:", "spek:")).expect("written");
    let (after, faults) = loop {
        let reading = timeout(DEADLINE, follower.next()).await.expect("in time").expect("a reading");
        let (after, faults) = accept(&before, &reading);
        if faults.len() > 1 {
            break (after, faults);
        }
    };
    assert_eq!(after, before);
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(faults, ["a.yaml:1: spec: is missing", "a.yaml:5: spek: is not known: did you mean spec?"]);
}
