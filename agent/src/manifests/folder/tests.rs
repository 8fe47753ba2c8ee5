use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::super::Admission;
use super::*;

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

const CONTEXT: Context<'_> = Context { default_namespace: "default", admission: &Anything };

fn policy(name: &str) -> String {
    format!("apiVersion: terrace.dev/v1alpha1\nkind: TierPolicy\nmetadata:\n  name: {name}\nspec: {{}}\n")
}

fn folder(files: &[(&str, &str)]) -> TempDir {
    let dir = TempDir::new().expect("a folder");
    for (name, text) in files {
        fs::write(dir.path().join(name), text).expect("a file");
    }
    dir
}

/// The names of a file's policies, or its faults.
type Found = Result<Vec<String>, Vec<String>>;

/// Every file as it was read.
fn found(dir: &Path) -> Vec<(String, Found)> {
    let reading = read(dir, &CONTEXT).expect("a reading");
    let files = reading.files.into_iter().map(|(file, read)| {
        let names = |good: GoodFile| good.set.policies.into_iter().filter_map(|policy| policy.metadata.name);
        let read = read.map(|good| names(good).collect());
        (file, read.map_err(|faults| faults.iter().map(ToString::to_string).collect()))
    });
    files.collect()
}

fn faults(text: &str) -> Vec<String> {
    check("a.yaml", text, &CONTEXT).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[test]
fn manifests_are_told_by_their_names() {
    let (a, b, c) = (policy("a"), policy("b"), policy("c"));
    let dir = folder(&[
        ("a.yaml", &a),
        ("b.yml", &b),
        ("c.json", &c),
        (".hidden.yaml", &a),
        ("a.yaml~", &a),
        ("a.yaml.bak", &a),
        ("README.md", "# not a manifest"),
        ("yaml", &a),
    ]);
    fs::create_dir(dir.path().join("folder.yaml")).expect("a folder");
    fs::write(dir.path().join("folder.yaml/d.yaml"), policy("d")).expect("a file");
    let expected = [("a.yaml", "a"), ("b.yml", "b"), ("c.json", "c")];
    let expected: Vec<_> =
        expected.map(|(file, name)| (file.to_owned(), Ok(vec![name.to_owned()]))).into_iter().collect();
    assert_eq!(found(dir.path()), expected);
}

#[test]
fn a_mounted_config_map_is_read() {
    let dir = TempDir::new().expect("a folder");
    let version = dir.path().join("..2026_01_02");
    fs::create_dir(&version).expect("a folder");
    fs::write(version.join("a.yaml"), policy("a")).expect("a file");
    symlink("..2026_01_02", dir.path().join("..data")).expect("a link");
    symlink("..data/a.yaml", dir.path().join("a.yaml")).expect("a link");
    assert_eq!(found(dir.path()), [("a.yaml".to_owned(), Ok(vec!["a".to_owned()]))]);
}

#[test]
fn a_file_that_cannot_be_a_manifest_is_a_fault_and_no_more() {
    let large = "#".repeat(1 + (1 << 20));
    let dir = folder(&[("a.yaml", &policy("a")), ("empty.yaml", ""), ("large.yaml", &large)]);
    fs::write(dir.path().join("bytes.yaml"), b"a: 1\nb: \xff\n").expect("a file");
    symlink("nothing", dir.path().join("link.yaml")).expect("a link");
    let socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket.yaml")).expect("a socket");
    let expected = [
        ("a.yaml", Ok(vec!["a"])),
        ("bytes.yaml", Err(vec!["bytes.yaml: is not UTF-8 in line 2"])),
        ("empty.yaml", Err(vec!["empty.yaml: is empty: to remove what it held, delete the file"])),
        ("large.yaml", Err(vec!["large.yaml: is larger than 1024 KiB, the most that is read"])),
        ("link.yaml", Err(vec!["link.yaml: cannot be read: No such file or directory (os error 2)"])),
        ("socket.yaml", Err(vec!["socket.yaml: is no regular file"])),
    ];
    let owned = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let expected: Vec<_> =
        expected.into_iter().map(|(file, read)| (file.to_owned(), read.map(owned).map_err(owned))).collect();
    assert_eq!(found(dir.path()), expected);
    drop(socket);
}

#[test]
fn an_absent_folder_is_not_an_empty_one() {
    let dir = folder(&[("a.yaml", &policy("a"))]);
    for absent in [dir.path().join("nowhere"), dir.path().join("a.yaml")] {
        assert!(
            matches!(read(&absent, &CONTEXT), Err(FolderError::Unreadable { .. })),
            "{}",
            absent.display()
        );
    }
    let empty = TempDir::new().expect("a folder");
    assert_eq!(read(empty.path(), &CONTEXT).expect("a reading"), Reading::default());
}

#[test]
fn a_folder_of_too_many_files_is_not_read_at_all() {
    let dir = TempDir::new().expect("a folder");
    for number in 0..=MOST_FILES {
        fs::write(dir.path().join(format!("{number}.yaml")), "# nothing\n").expect("a file");
    }
    assert!(matches!(read(dir.path(), &CONTEXT), Err(FolderError::TooManyFiles { found: 257, .. })));
    fs::remove_file(dir.path().join("0.yaml")).expect("removed");
    assert_eq!(read(dir.path(), &CONTEXT).expect("a reading").files.len(), MOST_FILES);
}

#[test]
fn faults_of_later_documents_have_the_lines_of_the_file() {
    let text = format!("{}---\n# a comment\n{}---\nkind: ConfigMap\n", policy("a"), policy("B"));
    let faults = faults(&text);
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].starts_with("a.yaml:11: metadata.name: \"B\" is no DNS label"), "{faults:?}");
    assert!(faults[1].starts_with("a.yaml:14: kind: ConfigMap is not read"), "{faults:?}");
}

#[test]
fn a_syntax_error_does_not_hide_the_faults_before_it() {
    let text = format!("{}---\na: b: c\n", policy("B"));
    let faults = faults(&text);
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults[0].starts_with("a.yaml:4: metadata.name: "), "{faults:?}");
    assert!(faults[1].starts_with("a.yaml:7: not valid YAML: "), "{faults:?}");
}

#[test]
fn a_resource_stands_in_a_file_once() {
    let text = format!("{}---\n{}---\n{}", policy("a"), policy("b"), policy("a"));
    assert_eq!(
        faults(&text),
        ["a.yaml:16: metadata.name: TierPolicy default/a stands in line 4 already: remove one of the two"]
    );
    let elsewhere = policy("a").replace("name: a", "name: a\n  namespace: other");
    assert_eq!(faults(&format!("{}---\n{elsewhere}", policy("a"))), Vec::<String>::new());
}

#[test]
fn a_file_may_hold_nothing_but_comments() {
    assert_eq!(check("a.yaml", "# all of it\n# is commented out\n", &CONTEXT), Ok(GoodFile::default()));
}

#[test]
fn endless_faults_are_counted_and_not_told() {
    let text = "---\nkind: ConfigMap\n".repeat(200);
    let faults = faults(&text);
    assert_eq!(faults.len(), 51);
    assert_eq!(faults[50], "a.yaml: has 150 more faults");
}
