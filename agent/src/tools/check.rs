//! `terrace-agent check`: what an operator and a standalone agent would say of manifests, without either.
//!
//! Each of them is asked in turn ([`Admission`]), and what only one refuses says so. What nobody refuses and cannot be meant
//! is a warning.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use terrace_fleet::SourceUri;

use super::given::LabelArgs;
use super::{STDIN, count};
use crate::allowed::Allowed;
use crate::manifests::{self, Admission, Checked, Fault, FileSet, Flags, Input};

/// What is checked.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// A manifest, a folder of them, or - for standard input.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,

    /// Namespace of manifests that state none.
    #[arg(long, value_name = "NAME", default_value = "default")]
    default_namespace: String,

    /// Who is to follow them: a cluster's operator, or a standalone agent. Without it, both have to accept them.
    #[arg(long = "for", value_name = "cluster|standalone", hide_possible_values = true)]
    by: Option<Follower>,

    /// End with status 1 where there are warnings, too.
    #[arg(long)]
    strict: bool,

    #[command(flatten)]
    allowed: Allowed,

    #[command(flatten)]
    labels: LabelArgs,
}

/// Who follows manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Follower {
    Cluster,
    Standalone,
}

impl Follower {
    const BOTH: [Self; 2] = [Self::Cluster, Self::Standalone];

    /// That only this one refuses.
    const fn alone(self) -> &'static str {
        match self {
            Self::Cluster => "an operator refuses this, a standalone agent does not",
            Self::Standalone => "a standalone agent refuses this, an operator does not",
        }
    }
}

/// Whether every file is accepted, and anything was checked; says what each holds, or what is wrong with it. Warnings go to
/// the second.
pub fn run(args: &Args, out: &mut dyn Write, warnings: &mut dyn Write) -> anyhow::Result<bool> {
    let mut inputs = Vec::new();
    let mut all = true;
    for file in &args.files {
        let input = input(file)?;
        let verdict = judge(args, &input)?;
        let (models, policies) = verdict.checked.counts();
        if verdict.refused.is_empty() {
            let others = match verdict.checked.others {
                0 => String::new(),
                others => format!(", and {others} of other kinds"),
            };
            writeln!(
                out,
                "{file}: accepted: {}, {}{others}",
                count(models, "model"),
                count(policies, "policy")
            )?;
        }
        for fault in &verdict.refused {
            all = false;
            writeln!(out, "{fault}")?;
        }
        inputs.push((input, verdict));
    }
    if all && inputs.iter().all(|(_, verdict)| verdict.checked.counts() == (0, 0)) {
        writeln!(out, "nothing was checked: there is no InferenceModel and no TierPolicy")?;
        return Ok(false);
    }
    let warned = warn(args, &inputs, all, warnings)?;
    Ok(all && !(warned && args.strict))
}

fn input(file: &str) -> anyhow::Result<Input> {
    let path = Path::new(file);
    if file != STDIN && path.is_dir() {
        return Ok(Input::Folder(path.to_owned()));
    }
    Ok(Input::Text { file: file.to_owned(), text: super::text(file, manifests::MOST_BYTES)? })
}

/// What was said of one of the files.
struct Verdict {
    /// What was accepted.
    checked: Checked,
    /// What was refused, and by whom where not by all.
    refused: Vec<String>,
    /// What agents of a cluster with the flags that were given do not reach.
    unreached: Vec<Fault>,
}

fn judge(args: &Args, input: &Input) -> anyhow::Result<Verdict> {
    let flags = || Flags::new(&args.allowed, &args.labels.node_labels, args.allowed.egress(None));
    let check = |admission: &dyn Admission| manifests::check(input, &args.default_namespace, admission);
    let asked = args.by.map_or_else(|| Follower::BOTH.to_vec(), |by| vec![by]);
    let mut said: Vec<(Follower, Checked)> = Vec::new();
    for by in asked {
        let checked = match by {
            Follower::Cluster => check(&Operator { allow_http: args.allowed.allow_http_sources })?,
            Follower::Standalone => check(&flags())?,
        };
        said.push((by, checked));
    }
    let mut unreached = Vec::new();
    if args.by == Some(Follower::Cluster) && args.allowed.is_given() {
        let refused = said.iter().flat_map(|(_, checked)| &checked.faults);
        let refused: Vec<&Fault> = refused.collect();
        let agents = check(&ClusterAgents(flags()))?.faults;
        unreached.extend(agents.into_iter().filter(|fault| !refused.contains(&fault)));
    }
    Ok(Verdict { refused: refused(&said), checked: said.swap_remove(0).1, unreached })
}

/// Every fault once, in the order of the files, with who finds it where not all do.
fn refused(said: &[(Follower, Checked)]) -> Vec<String> {
    let mut by: BTreeMap<(&str, Option<u64>), Vec<(&Fault, Vec<Follower>)>> = BTreeMap::new();
    for (follower, checked) in said {
        for fault in &checked.faults {
            let here = by.entry((fault.file.as_str(), fault.line)).or_default();
            match here.iter_mut().find(|(known, _)| *known == fault) {
                Some((_, followers)) => followers.push(*follower),
                None => here.push((fault, vec![*follower])),
            }
        }
    }
    let told = by.into_values().flatten().map(|(fault, followers)| match followers[..] {
        [alone] if said.len() > 1 => format!("{fault} ({})", alone.alone()),
        _ => fault.to_string(),
    });
    told.collect()
}

/// Tells what is accepted and cannot be meant. `are_all`: everything that was given was accepted.
fn warn(
    args: &Args,
    inputs: &[(Input, Verdict)],
    are_all: bool,
    warnings: &mut dyn Write,
) -> anyhow::Result<bool> {
    let sets: Vec<&FileSet> = inputs.iter().flat_map(|(_, verdict)| verdict.checked.files.values()).collect();
    let mut found: Vec<String> = Vec::new();
    for doubt in manifests::doubts(sets.into_iter(), are_all) {
        let places = inputs
            .iter()
            .filter_map(|(input, verdict)| input.place(&verdict.checked, &doubt, &args.default_namespace));
        found.extend(places.take(1).map(|fault| fault.to_string()));
    }
    let unreached = inputs.iter().flat_map(|(_, verdict)| &verdict.unreached);
    found.extend(unreached.map(|fault| format!("{fault} (an agent with these flags does not reach it)")));
    for warning in &found {
        writeln!(warnings, "warning: {warning}")?;
    }
    Ok(!found.is_empty())
}

/// What a cluster's operator allows: what may be reached is each agent's to say, but checksum files it reads itself.
struct Operator {
    allow_http: bool,
}

impl Admission for Operator {
    fn source(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn tier(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn checksums(&self, uri: &str) -> Result<(), String> {
        let why = match SourceUri::parse(uri).map_err(|error| error.to_string())? {
            SourceUri::Https(_) => return Ok(()),
            SourceUri::Http(_) if self.allow_http => return Ok(()),
            SourceUri::Http(_) => {
                "an operator reads http:// checksum files only with --allow-http-sources; use https://"
            }
            SourceUri::File(_) => {
                "file:// names a file on a node, which an operator cannot read; publish the checksum file over https://, or pin sha256"
            }
        };
        Err(why.to_owned())
    }

    fn site(&self) -> Result<(), String> {
        Ok(())
    }

    fn passes_over_others(&self) -> bool {
        true
    }
}

/// What agents of a cluster that have these flags reach.
struct ClusterAgents(Flags);

impl Admission for ClusterAgents {
    fn source(&self, uri: &str) -> Result<(), String> {
        self.0.source(uri)
    }

    fn tier(&self, url: &str) -> Result<(), String> {
        self.0.tier(url)
    }

    fn checksums(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn site(&self) -> Result<(), String> {
        Ok(())
    }

    fn passes_over_others(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::tools::parsed;

    fn said(line: &[&str]) -> (bool, String, String) {
        let (mut out, mut warnings) = (Vec::new(), Vec::new());
        let accepted = run(&parsed(line).unwrap(), &mut out, &mut warnings).unwrap();
        (accepted, String::from_utf8(out).unwrap(), String::from_utf8(warnings).unwrap())
    }

    fn check(files: &[&Path]) -> (bool, String) {
        let files: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
        let (accepted, told, _) = said(&files);
        (accepted, told)
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
        let args = parsed(["/does/not/exist.yaml"]).unwrap();
        let error = run(&args, &mut Vec::new(), &mut Vec::new()).unwrap_err().to_string();
        assert!(error.starts_with("/does/not/exist.yaml cannot be read"), "{error}");
    }

    /// A model with this source, and what comes after it.
    fn model(source: &str, more: &str) -> String {
        format!(
            "apiVersion: terrace.dev/v1alpha1\nkind: InferenceModel\nmetadata: {{name: digits}}\nspec:\n  source: {{{source}}}\n{more}"
        )
    }

    fn policy(spec: &str) -> String {
        format!(
            "apiVersion: terrace.dev/v1alpha1\nkind: TierPolicy\nmetadata: {{name: near}}\nspec: {spec}\n"
        )
    }

    #[test]
    fn each_says_what_it_alone_refuses_and_the_flags_of_agents_count() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        let digest = "0123456789abcdef".repeat(4);
        let pinned = |uri: &str| model(&format!("uri: '{uri}', sha256: {digest}"), "");
        let published = |uri: &str| model(&format!("uri: 'https://a.example/a', sha256From: '{uri}'"), "");
        let at = |url: &str| policy(&format!("{{tiers: {{cloud: {{url: '{url}'}}}}}}"));
        let foreign = policy("{}") + "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
        let (standalone, operator) = (Some(Follower::Standalone), Some(Follower::Cluster));
        for (text, flags, refused_by) in [
            (pinned("https://a.example/a"), &[][..], None),
            (pinned("file:///a"), &[], standalone),
            (pinned("file:///a"), &["--file-root", "/srv"], None),
            (pinned("http://a.example/a"), &[], standalone),
            (pinned("http://a.example/a"), &["--allow-http-sources"], None),
            (at("http://127.0.0.1:1"), &[], standalone),
            (at("http://127.0.0.1:1"), &["--allow-upstream", "127.0.0.1"], None),
            (at("https://cloud.example"), &["--allow-upstream", "other.example"], standalone),
            (published("https://a.example/sums"), &[], None),
            (published("file:///sums"), &["--file-root", "/srv"], operator),
            (policy("{tiers: {edge: {site: {}}}}"), &[], standalone),
            (foreign, &[], standalone),
        ] {
            fs::write(&file, &text).unwrap();
            let line = |by: &[&'static str]| [&[file.to_str().unwrap()][..], flags, by].concat();
            let (accepted, told, _) = said(&line(&[]));
            assert_eq!(accepted, refused_by.is_none(), "{text}{told}");
            if let Some(by) = refused_by {
                assert!(told.lines().all(|line| line.ends_with(&format!(" ({})", by.alone()))), "{told}");
            }
            for (name, by) in [("cluster", Follower::Cluster), ("standalone", Follower::Standalone)] {
                let (accepted, told, _) = said(&line(&["--for", name]));
                assert_eq!(accepted, refused_by != Some(by), "{name}: {text}{told}");
                assert!(!told.contains("refuses this"), "{told}");
            }
        }
    }

    #[test]
    fn what_agents_of_a_cluster_do_not_reach_is_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.yaml");
        fs::write(&file, policy("{tiers: {cloud: {url: 'https://cloud.example'}}}")).unwrap();
        let line = [file.to_str().unwrap(), "--for", "cluster", "--allow-upstream", "other.example"];
        let (accepted, told, warnings) = said(&line);
        assert!(accepted && told.contains("accepted"), "{told}");
        assert!(
            warnings.starts_with("warning: ") && warnings.contains("a.yaml:4: spec.tiers.cloud.url: "),
            "{warnings}"
        );
        assert!(!said(&[&line[..], &["--strict"]].concat()).0);
    }

    #[test]
    fn what_does_not_fit_together_is_a_warning_with_its_line_over_all_files() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("one.yaml"), folder.path().join("other.yaml"));
        let source = format!("uri: 'https://a.example/a', sha256: {}", "0123456789abcdef".repeat(4));
        fs::write(&one, model(&source, "  policyRef: {name: near}\n")).unwrap();
        fs::write(&other, policy("{rules: [{when: 'true', tier: Cloud}]}")).unwrap();
        let (one, other) = (one.to_str().unwrap(), other.to_str().unwrap());
        let (accepted, _, warnings) = said(&[one]);
        assert!(
            accepted && warnings.starts_with(&format!("warning: {one}:6: spec.policyRef: no TierPolicy")),
            "{warnings}"
        );
        assert_eq!((said(&[one, "--strict"]).0, said(&[other, "--strict"]).0), (false, false));
        for files in [&[one, other][..], &[folder.path().to_str().unwrap()]] {
            let (accepted, _, warnings) = said(files);
            assert!(accepted, "{warnings}");
            assert_eq!(warnings.lines().count(), 1, "{warnings}");
            assert!(warnings.contains("other.yaml:4: spec.rules[0].tier: is Cloud"), "{warnings}");
        }
    }

    #[test]
    fn nothing_checked_is_nothing_accepted() {
        let folder = tempfile::tempdir().unwrap();
        let (accepted, told) = check(&[folder.path()]);
        assert!(!accepted && told.ends_with("holds no *.yaml, *.yml or *.json\n"), "{told}");
        let file = folder.path().join("a.yaml");
        fs::write(&file, "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n").unwrap();
        let (accepted, told, _) = said(&[file.to_str().unwrap(), "--for", "cluster"]);
        assert!(!accepted && told.contains("and 1 of other kinds\nnothing was checked"), "{told}");
    }
}
