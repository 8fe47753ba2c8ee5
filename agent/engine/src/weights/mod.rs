//! Weights that the sessions of a model share: one file, mapped by each of them, and gone from its folder once they have
//! it. It is memory that the system can take back and read again, as nothing is written to it.
//!
//! Called by `sessions`. Knows the format of models and no runtime.

mod apart;
mod wire;

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use tempfile::TempDir;

use apart::take_apart;

/// What the file is called in its folder.
const FILE: &str = "weights";
/// Models with fewer bytes of weights are not worth a file.
const LEAST: usize = 1 << 20;

/// A model and its large weights, apart. The folder goes when this goes; what is mapped by then stays.
#[derive(Debug)]
pub struct SharedWeights {
    model: Vec<u8>,
    folder: TempDir,
    size: u64,
}

impl SharedWeights {
    /// Lays out a model's weights in a new folder below `scratch`, which is created where it is missing; none where
    /// there is nothing worth it.
    pub fn lay_out(model: &[u8], scratch: &Path) -> io::Result<Option<Self>> {
        let Some(apart) = take_apart(model, FILE).filter(|apart| apart.size() >= LEAST) else {
            return Ok(None);
        };
        fs::create_dir_all(scratch)?;
        let folder = tempfile::tempdir_in(scratch)?;
        let mut file = BufWriter::new(File::create_new(folder.path().join(FILE))?);
        for (offset, weights) in &apart.weights {
            file.seek(SeekFrom::Start(*offset as u64))?;
            file.write_all(weights)?;
        }
        file.flush()?;
        let size = apart.size() as u64;
        Ok(Some(Self { model: apart.model, folder, size }))
    }

    /// The model without them.
    pub fn model(&self) -> &[u8] {
        &self.model
    }

    /// Where they lie.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How many bytes they are.
    pub const fn size(&self) -> u64 {
        self.size
    }
}
