//! `terrace-agent check`: what an operator and a standalone agent would say of manifests, without either.
//!
//! Each of them is asked in turn (its `Admission`), and what only one refuses says so. What nobody refuses and cannot be meant
//! is a warning.

mod followers;

use std::io::Write;
use std::path::Path;

use super::given::LabelArgs;
use super::{STDIN, count};
use crate::allowed::Allowed;
use crate::manifests::{self, Admission, Checked, Fault, FileSet, Flags, Input};
use followers::{ClusterAgents, Follower, Operator};

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
            Follower::Cluster => check(&Operator { allow_http: args.allowed.allows_http() })?,
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
    let mut by: Vec<(&Fault, Vec<Follower>)> = Vec::new();
    for (follower, checked) in said {
        for fault in &checked.faults {
            match by.iter_mut().find(|(known, _)| *known == fault) {
                Some((_, followers)) => followers.push(*follower),
                None => by.push((fault, vec![*follower])),
            }
        }
    }
    by.sort_by(|(one, _), (other, _)| (&one.file, one.line).cmp(&(&other.file, other.line)));
    let told = by.into_iter().map(|(fault, followers)| match followers[..] {
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

#[cfg(test)]
mod tests;
