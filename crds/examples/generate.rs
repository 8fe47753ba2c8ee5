//! Writes the definitions of the kinds to the folder that its argument names: `make crds`.

use std::error::Error;
use std::fs;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: generate FOLDER")?;
    for (file, definition) in terrace_crds::definitions() {
        let yaml = serde_yaml_ng::to_string(&definition)?;
        fs::write(Path::new(&folder).join(file), format!("{HEADER}{yaml}"))?;
    }
    Ok(())
}

const HEADER: &str = "# Generated from crds/src; run `make crds` after a change there.\n";
