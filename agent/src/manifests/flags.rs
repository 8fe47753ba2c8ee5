//! What a standalone agent's flags allow of a manifest that is otherwise right.

use terrace_crds::policy::SITE_LABEL;
use terrace_fleet::SourceUri;
use terrace_tiering::SITE;
use url::Url;

use super::Admission;
use crate::allowed::Allowed;
use terrace_egress::Egress;

/// The flags that matter.
#[derive(Debug)]
pub(crate) struct Flags {
    egress: Egress,
    allow_http: bool,
    has_file_roots: bool,
    /// Where this node is.
    site: Option<String>,
}

impl Flags {
    /// The flags of an agent whose node has these labels.
    pub(crate) fn new(allowed: &Allowed, labels: &[(String, String)], egress: Egress) -> Self {
        let site = labels.iter().rfind(|(key, _)| key == SITE_LABEL).map(|(_, site)| site.clone());
        let has_file_roots = !allowed.file_roots.is_empty();
        Self { egress, allow_http: allowed.allows_http(), has_file_roots, site }
    }

    fn reachable(&self, url: &Url) -> Result<(), String> {
        self.egress.check_url(url).map_err(|denied| denied.to_string())
    }
}

impl Admission for Flags {
    fn source(&self, uri: &str) -> Result<(), String> {
        match SourceUri::parse(uri).map_err(|error| error.to_string())? {
            SourceUri::Https(url) => self.reachable(&url),
            SourceUri::Http(url) if self.allow_http => self.reachable(&url),
            SourceUri::Http(_) => {
                Err("http:// sources are read only with --allow-http-sources; use https://".to_owned())
            }
            SourceUri::File(_) if self.has_file_roots => Ok(()),
            SourceUri::File(_) => Err(
                "file:// sources are read only below folders that --file-root names, and this agent has none"
                    .to_owned(),
            ),
        }
    }

    fn tier(&self, url: &str) -> Result<(), String> {
        // As it is reached from here; where this node has no site, it is not reached at all.
        let url = match &self.site {
            Some(site) => url.replace(SITE, site),
            None if url.contains(SITE) => return Ok(()),
            None => url.to_owned(),
        };
        Url::parse(&url).map_err(|error| error.to_string()).and_then(|url| self.reachable(&url))
    }
}
