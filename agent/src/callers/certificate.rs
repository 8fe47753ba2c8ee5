//! Who a client certificate stands for: the ServiceAccount in its SPIFFE identity, else what the agent's keeper says.

use rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

use super::caller::{Caller, is_namespace};
use super::denied::Denied;

/// Who a certificate stands for; `rest` where it has no SPIFFE identity. That its chain holds is checked elsewhere.
pub fn caller(certificate: &CertificateDer<'_>, rest: &Caller) -> Result<Caller, Denied> {
    let certificate = EndEntityCert::try_from(certificate).map_err(|_| Denied::CertificateRefused)?;
    by_uris(certificate.valid_uri_names(), rest)
}

fn by_uris<'a>(uris: impl Iterator<Item = &'a str>, rest: &Caller) -> Result<Caller, Denied> {
    let mut identities =
        uris.filter(|uri| uri.get(..9).is_some_and(|scheme| scheme.eq_ignore_ascii_case("spiffe://")));
    match (identities.next(), identities.next()) {
        (None, _) if rest.is_nobody() => Err(Denied::NoNamespace),
        (None, _) => Ok(rest.clone()),
        (Some(identity), None) => {
            let namespace = namespace(identity).ok_or(Denied::NoNamespace)?;
            Ok(Caller::of([namespace.to_owned()]))
        }
        // Which of two it is, nobody can tell.
        (Some(_), Some(_)) => Err(Denied::NoNamespace),
    }
}

/// The namespace of `spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME`.
fn namespace(identity: &str) -> Option<&str> {
    let mut parts = identity.get(9..)?.split('/');
    let domain = parts.next()?;
    let (Some("ns"), Some(namespace), Some("sa"), Some(name), None) =
        (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    (!domain.is_empty() && !name.is_empty() && is_namespace(namespace)).then_some(namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_is_that_of_the_one_spiffe_identity() {
        let shop = Caller::of(["shop".to_owned()]);
        let (rest, nobody) = (Caller::of(["rest".to_owned()]), Caller::of([]));
        let id = "spiffe://cluster.local/ns/shop/sa/till";
        for (uris, expected) in [
            (&[id][..], Ok(shop.clone())),
            (&["https://shop.example", id], Ok(shop)),
            (&["https://shop.example"], Ok(rest.clone())),
            (&[], Ok(rest.clone())),
            (&[id, "spiffe://cluster.local/ns/other/sa/till"], Err(Denied::NoNamespace)),
            (&["spiffe://cluster.local/ns/shop"], Err(Denied::NoNamespace)),
            (&["spiffe://cluster.local/ns/shop/sa/till/more"], Err(Denied::NoNamespace)),
            (&["spiffe://cluster.local/ns/*/sa/till"], Err(Denied::NoNamespace)),
            (&["spiffe:///ns/shop/sa/till"], Err(Denied::NoNamespace)),
            (&["SPIFFE://cluster.local/agent"], Err(Denied::NoNamespace)),
        ] {
            assert_eq!(by_uris(uris.iter().copied(), &rest), expected, "{uris:?}");
        }
        assert_eq!(by_uris([].into_iter(), &nobody), Err(Denied::NoNamespace));
    }
}
