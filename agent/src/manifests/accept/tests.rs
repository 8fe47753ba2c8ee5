use proptest::prelude::*;
use terrace_crds::TierPolicySpec;

use super::*;

/// A file of policies, each at its own line; the text before `=` is the name, the one after it tells versions apart.
fn good(entries: &[&str]) -> GoodFile {
    let policies: Vec<TierPolicy> = entries
        .iter()
        .map(|entry| {
            let (name, version) = entry.split_once('=').unwrap_or((entry, "1"));
            let mut policy = TierPolicy::new(name, TierPolicySpec::default());
            policy.metadata.namespace = Some("default".to_owned());
            policy.labels_mut().insert("version".to_owned(), version.to_owned());
            policy
        })
        .collect();
    let set = FileSet { models: Vec::new(), policies };
    let lines = set.keys().zip(1..).collect();
    GoodFile { set, lines, others: 0 }
}

fn reading(files: &[(&str, Option<&[&str]>)]) -> Reading {
    let files = files.iter().map(|&(file, entries)| {
        let read = entries.map(good).ok_or_else(|| vec![Fault::of_file(file, "broken")]);
        (file.to_owned(), read)
    });
    Reading { files: files.collect() }
}

fn accepted(files: &[(&str, &[&str])]) -> Accepted {
    Accepted { files: files.iter().map(|&(file, entries)| (file.to_owned(), good(entries).set)).collect() }
}

/// What was in force, what is found, what is in force then, and what is told.
struct Row {
    name: &'static str,
    before: &'static [(&'static str, &'static [&'static str])],
    found: &'static [(&'static str, Option<&'static [&'static str]>)],
    after: &'static [(&'static str, &'static [&'static str])],
    faults: &'static [&'static str],
}

fn assert_rows(table: &[Row]) {
    for row in table {
        let (after, faults) = accept(&accepted(row.before), &reading(row.found));
        assert_eq!(after, accepted(row.after), "{}", row.name);
        assert_eq!(faults.iter().map(ToString::to_string).collect::<Vec<_>>(), row.faults, "{}", row.name);
    }
}

#[test]
fn a_good_file_enters_whole_and_a_bad_one_leaves_what_it_held() {
    assert_rows(&[
        Row {
            name: "a new file enters",
            before: &[],
            found: &[("a", Some(&["x", "y"]))],
            after: &[("a", &["x", "y"])],
            faults: &[],
        },
        Row {
            name: "a changed file replaces what it held",
            before: &[("a", &["x", "y"])],
            found: &[("a", Some(&["x=2"]))],
            after: &[("a", &["x=2"])],
            faults: &[],
        },
        Row {
            name: "a file that is gone takes its resources along",
            before: &[("a", &["x"]), ("b", &["y"])],
            found: &[("b", Some(&["y"]))],
            after: &[("b", &["y"])],
            faults: &[],
        },
        Row {
            name: "a file with faults goes on with what it held",
            before: &[("a", &["x"]), ("b", &["y"])],
            found: &[("a", None), ("b", Some(&["y=2"]))],
            after: &[("a", &["x"]), ("b", &["y=2"])],
            faults: &["a: broken"],
        },
        Row {
            name: "a new file with faults holds nothing",
            before: &[],
            found: &[("a", None)],
            after: &[],
            faults: &["a: broken"],
        },
    ]);
}

#[test]
fn a_resource_is_in_one_file_and_stays_where_it_was() {
    assert_rows(&[
        Row {
            name: "of two newcomers the first name wins",
            before: &[],
            found: &[("a", Some(&["x"])), ("b", Some(&["y", "x"]))],
            after: &[("a", &["x"])],
            faults: &["b:2: metadata.name: TierPolicy default/x is in a already: remove one of the two"],
        },
        Row {
            name: "what was in force stays where it was, whatever the newcomer is called",
            before: &[("b", &["x", "y"])],
            found: &[("a", Some(&["x=2"])), ("b", Some(&["x", "y"]))],
            after: &[("b", &["x", "y"])],
            faults: &["a:1: metadata.name: TierPolicy default/x is in b already: remove one of the two"],
        },
        Row {
            name: "a file that takes another's resource goes on with what it held",
            before: &[("a", &["x"]), ("b", &["y"])],
            found: &[("a", Some(&["x"])), ("b", Some(&["y=2", "x=2"]))],
            after: &[("a", &["x"]), ("b", &["y"])],
            faults: &["b:2: metadata.name: TierPolicy default/x is in a already: remove one of the two"],
        },
        Row {
            name: "a resource moves from one file to another",
            before: &[("a", &[]), ("b", &["x", "y"])],
            found: &[("a", Some(&["x"])), ("b", Some(&["y"]))],
            after: &[("a", &["x"]), ("b", &["y"])],
            faults: &[],
        },
        Row {
            name: "two resources change places",
            before: &[("a", &["x"]), ("b", &["y"])],
            found: &[("a", Some(&["y"])), ("b", Some(&["x"]))],
            after: &[("a", &["y"]), ("b", &["x"])],
            faults: &[],
        },
        Row {
            name: "a file is renamed",
            before: &[("b", &["x"])],
            found: &[("a", Some(&["x"]))],
            after: &[("a", &["x"])],
            faults: &[],
        },
        Row {
            name: "a move out of a file that is now broken waits until it is mended",
            before: &[("b", &["x"])],
            found: &[("a", Some(&["x=2"])), ("b", None)],
            after: &[("b", &["x"])],
            faults: &[
                "a:1: metadata.name: TierPolicy default/x is in b already: remove one of the two",
                "b: broken",
            ],
        },
        Row {
            name: "two resources change places although a third file wants one of them",
            before: &[("a", &["w"]), ("d", &["x"])],
            found: &[("a", Some(&["x"])), ("b", Some(&["w", "y"])), ("c", Some(&["y"])), ("d", Some(&["w"]))],
            after: &[("a", &["x"]), ("c", &["y"]), ("d", &["w"])],
            faults: &[
                "b:1: metadata.name: TierPolicy default/w is in d already: remove one of the two",
                "b:2: metadata.name: TierPolicy default/y is in c already: remove one of the two",
            ],
        },
        Row {
            name: "a newcomer whose rival is itself refused enters",
            before: &[("c", &["y"])],
            found: &[("a", Some(&["x", "y"])), ("b", Some(&["x"])), ("c", Some(&["y"]))],
            after: &[("b", &["x"]), ("c", &["y"])],
            faults: &[
                "a:1: metadata.name: TierPolicy default/x is in b already: remove one of the two",
                "a:2: metadata.name: TierPolicy default/y is in c already: remove one of the two",
            ],
        },
    ]);
}

#[test]
fn what_is_accepted_survives_the_journal() {
    let before = accepted(&[("a.yaml", &["x", "y=2"]), ("b.yaml", &[])]);
    let journal = serde_json::to_string(&before).expect("JSON");
    assert_eq!(serde_json::from_str::<Accepted>(&journal).expect("the same"), before);
}

/// A folder of four files over four resources: a file is absent, broken, or holds some of them.
fn any_reading() -> impl Strategy<Value = Reading> {
    let entry = (0..4_usize, 0..2_u8).prop_map(|(name, version)| (["w", "x", "y", "z"][name], version));
    let held = prop::collection::btree_map(0..4_usize, entry, 0..4).prop_map(|entries| {
        let unique: BTreeMap<&str, u8> = entries.into_values().collect();
        let entries: Vec<String> = unique.iter().map(|(name, version)| format!("{name}={version}")).collect();
        good(&entries.iter().map(String::as_str).collect::<Vec<_>>())
    });
    let file =
        prop_oneof![1 => Just(None), 1 => Just(Some(None)), 4 => held.prop_map(|file| Some(Some(file)))];
    prop::collection::vec(file, 4).prop_map(|files| {
        let found = ["a", "b", "c", "d"].into_iter().zip(files).filter_map(|(name, file)| {
            let read = file?.ok_or_else(|| vec![Fault::of_file(name, "broken")]);
            Some((name.to_owned(), read))
        });
        Reading { files: found.collect() }
    })
}

proptest! {
    #[test]
    fn a_fault_never_removes_what_was_in_force(readings in prop::collection::vec(any_reading(), 1..5)) {
        let mut before = Accepted::default();
        for reading in &readings {
            let (after, faults) = accept(&before, reading);

            let keys: Vec<_> = after.files.values().flat_map(FileSet::keys).collect();
            prop_assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "a resource is in two files");

            for (file, read) in &reading.files {
                let faulty = faults.iter().any(|fault| fault.file == *file);
                let expected = match read {
                    Ok(good) if !faulty => Some(&good.set),
                    _ => before.files.get(file),
                };
                prop_assert_eq!(after.files.get(file), expected, "{} is neither obeyed nor as it was", file);
                prop_assert!(read.is_ok() || faulty, "{} is broken without a fault", file);
            }
            prop_assert!(after.files.keys().all(|file| reading.files.contains_key(file)));

            for (file, set) in before.files.iter().filter(|(file, _)| reading.files.contains_key(*file)) {
                for key in set.keys() {
                    let in_force = after.files.values().any(|set| set.holds(&key));
                    let dropped = matches!(&reading.files[file], Ok(good) if !good.set.holds(&key));
                    prop_assert!(in_force || dropped, "{} was lost", key);
                }
            }

            let again = accept(&after, reading);
            prop_assert_eq!(&again.0, &after, "the same folder gives another result");
            prop_assert_eq!(again.1, faults);
            before = after;
        }
    }
}
