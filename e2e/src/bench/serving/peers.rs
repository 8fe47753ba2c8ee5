//! Other servers, as `e2e/bench/peers/serve.py` starts them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::helper::Helper;
use super::question::Encoding;
use crate::bench::start::free_address;
use crate::checkout;

/// Name, and whether it knows binary tensors.
const ALL: [(&str, bool); 4] = [("triton", true), ("mlserver", false), ("kserve", true), ("litserve", false)];

/// Which are measured.
pub struct Peers {
    pub taken: Vec<(&'static str, bool)>,
    pub left_out: Vec<&'static str>,
}

impl Peers {
    /// All with `1`, none with `0`, otherwise those that are installed.
    pub fn chosen(setting: Option<&str>) -> Self {
        let venvs = checkout().join(".tools/venv");
        let is_taken = |(name, _): &(&str, bool)| match setting {
            Some("1") => true,
            Some("0") => false,
            _ => venvs.join(format!("peer-{name}/made-from")).exists(),
        };
        let (taken, left_out): (Vec<_>, Vec<_>) = ALL.into_iter().partition(is_taken);
        Self { taken, left_out: left_out.into_iter().map(|(name, _)| name).collect() }
    }

    /// Those that know an encoding.
    pub fn that_know(&self, encoding: Encoding) -> impl Iterator<Item = &'static str> {
        let known = move |(_, binary): &&(&str, bool)| match encoding {
            Encoding::Json => true,
            Encoding::Binary => *binary,
            // Not set up here.
            Encoding::Grpc => false,
        };
        self.taken.iter().filter(known).map(|(name, _)| *name)
    }
}

/// Starts one with a model; its port.
pub fn start(name: &str, model: &Path) -> Result<(Helper, u16)> {
    let port = free_address()?.port();
    let mut command = Command::new(checkout().join("e2e/bench/peers/serve.py"));
    command.arg(name).arg(model).arg(port.to_string());
    let (helper, _) = Helper::start(command).with_context(|| name.to_owned())?;
    Ok((helper, port))
}
