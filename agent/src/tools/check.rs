//! `terrace-agent check`: what an operator would say of manifests, without a cluster.

use std::io::Write;
use std::path::Path;

use crate::manifests::{Checked, Fault};

use super::STDIN;

/// What is checked.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A manifest, a folder of them, or - for standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,

    /// Namespace of manifests that state none.
    #[arg(long, value_name = "NAME", default_value = "default")]
    default_namespace: String,
}

/// Whether every file is accepted; says what each holds, or what is wrong with it.
pub fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<bool> {
    let mut all = true;
    for file in &args.files {
        match look(file, &args.default_namespace)? {
            Ok(Checked { models, policies }) => {
                writeln!(out, "{file}: accepted: {}, {}", count(models, "model"), count(policies, "policy"))?;
            }
            Err(faults) => {
                all = false;
                for fault in faults {
                    writeln!(out, "{fault}")?;
                }
            }
        }
    }
    Ok(all)
}

fn look(file: &str, default_namespace: &str) -> anyhow::Result<Result<Checked, Vec<Fault>>> {
    if file == STDIN {
        let text = super::text(file, crate::manifests::MOST_BYTES)?;
        return Ok(crate::manifests::check_text(file, &text, default_namespace));
    }
    let path = Path::new(file);
    if path.is_dir() {
        return Ok(crate::manifests::check_folder(path, default_namespace)?);
    }
    let text = super::text(file, crate::manifests::MOST_BYTES)?;
    Ok(crate::manifests::check_text(file, &text, default_namespace))
}

fn count(count: usize, of: &str) -> String {
    match (count, of) {
        (1, of) => format!("1 {of}"),
        (count, "policy") => format!("{count} policies"),
        (count, of) => format!("{count} {of}s"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::parsed;
    use super::*;

    fn check(files: &[&Path]) -> (bool, String) {
        let line = std::iter::once(Path::new("check")).chain(files.iter().copied());
        let args: Args = parsed(line).unwrap();
        let mut out = Vec::new();
        let accepted = run(&args, &mut out).unwrap();
        (accepted, String::from_utf8(out).unwrap())
    }

    const GOOD: &str = "\
apiVersion: terrace.dev/v1alpha1
kind: TierPolicy
metadata: {name: mine}
spec:
  rules:
    - {when: request.maxLatencyMs < 50, tier: Device}
";
    const BAD: &str = "\
apiVersion: terrace.dev/v1alpha1
kind: TierPolicy
metadata: {name: mine}
spec:
  rules:
    - {when: 'true', tier: Device}
    - when: >-
        request.bytes > 10 &&
        request.maxLatency < 50
      tier: Edge
---
apiVersion: terrace.dev/v1alpha1
kind: InferenceModel
metadata: {name: digits}
spec:
  source: {uri: 'ftp://a/b', sha256: abc}
";

    #[test]
    fn what_is_right_is_accepted_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("good.yaml");
        fs::write(&file, GOOD).unwrap();
        let (accepted, told) = check(&[&file]);
        assert!(accepted, "{told}");
        assert_eq!(told, format!("{}: accepted: 0 models, 1 policy\n", file.display()));
        assert!(check(&[folder.path()]).0);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_file_line_and_field() {
        let folder = tempfile::tempdir().unwrap();
        let (good, bad) = (folder.path().join("good.yaml"), folder.path().join("bad.yaml"));
        fs::write(&good, GOOD).unwrap();
        fs::write(&bad, BAD).unwrap();
        let (accepted, told) = check(&[&bad]);
        assert!(!accepted);
        let lines: Vec<&str> = told.lines().collect();
        let start = format!("{}:7: spec.rules[1].when: 1:31: request has no field maxLatency", bad.display());
        assert!(lines[0].starts_with(&start), "{told}");
        assert!(lines[1].starts_with(&format!("{}:16: spec.source", bad.display())), "{told}");
        assert_eq!(lines.len(), 3, "{told}");

        let (accepted, told) = check(&[&good, &bad]);
        assert!(!accepted && told.contains("good.yaml: accepted"), "{told}");
    }

    #[test]
    fn a_folder_is_checked_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.yaml", "b.yaml"] {
            fs::write(folder.path().join(name), GOOD).unwrap();
        }
        let (accepted, told) = check(&[folder.path()]);
        assert!(!accepted && told.contains("TierPolicy default/mine is in a.yaml already"), "{told}");
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let args: Args = parsed(["check", "/does/not/exist.yaml"]).unwrap();
        let error = run(&args, &mut Vec::new()).unwrap_err().to_string();
        assert!(error.starts_with("/does/not/exist.yaml cannot be read"), "{error}");
    }
}
