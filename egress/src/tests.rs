use super::*;

fn egress(allowances: &[&str]) -> Egress {
    Egress::new(allowances.iter().map(|allowance| allowance.parse().unwrap()).collect())
}

fn check(allowances: &[&str], url: &str) -> Result<(), String> {
    egress(allowances).check_url(&Url::parse(url).unwrap()).map_err(|denied| denied.to_string())
}

fn resolved(allowances: &[&str], name: &str, addresses: &[&str]) -> Result<Vec<String>, String> {
    let addresses = addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 0));
    egress(allowances)
        .permitted(name, addresses)
        .map(|permitted| permitted.iter().map(|address| address.ip().to_string()).collect())
        .map_err(|denied| denied.to_string())
}

#[test]
fn without_an_allowance_everything_but_guarded_addresses_is_reached() {
    for url in ["https://models.example/m", "http://10.0.0.7:8000", "https://[fd00::1]/m", "http://1.1.1.1"] {
        assert_eq!(check(&[], url), Ok(()), "{url}");
    }
    for url in [
        "http://127.0.0.1:8000",
        "http://127.1",
        "http://2130706433",
        "http://0x7f.1",
        "http://0177.0.0.1",
        "http://127.0.0.1.",
        "http://[::1]",
        "http://[::ffff:127.0.0.1]",
        "http://[::ffff:7f00:1]",
        "http://[0:0:0:0:0:0:0:1]",
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]",
        "http://[fd00:ec2::254]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://0.0.0.0",
        "http://0",
        "http://[::]",
        "http://224.0.0.1",
        "http://255.255.255.255",
        "http://localhost:8000",
        "http://LOCALHOST.",
        "http://a.localhost",
        "http://user@127.0.0.1",
        "http://models.example@127.0.0.1",
        "data:text/plain,a",
    ] {
        assert!(check(&[], url).is_err(), "{url}");
    }
}

#[test]
fn with_an_allowance_only_what_is_listed_is_reached() {
    let listed = ["models.example", "10.0.0.0/8"];
    for url in [
        "https://models.example/m",
        "https://Models.Example./m",
        "http://10.0.0.7:8000",
        "http://[::ffff:10.0.0.7]",
    ] {
        assert_eq!(check(&listed, url), Ok(()), "{url}");
    }
    for url in [
        "http://1.1.1.1",
        "http://192.168.0.1",
        "http://[2606:4700::1111]",
        "http://127.0.0.1",
        "http://localhost",
    ] {
        assert!(check(&listed, url).is_err(), "{url}");
    }
    // Its addresses decide: they may be in the network.
    assert_eq!(check(&listed, "http://edge.site:8000"), Ok(()));
    assert!(check(&["models.example"], "http://edge.site:8000").is_err());
}

#[test]
fn a_name_permits_its_addresses_unless_they_are_guarded() {
    let listed = ["models.example", "*.cdn.example"];
    let any = |name| resolved(&listed, name, &["93.184.216.34", "127.0.0.1", "10.0.0.7"]);
    assert_eq!(any("models.example"), Ok(vec!["93.184.216.34".to_owned(), "10.0.0.7".to_owned()]));
    assert_eq!(any("eu.cdn.example"), any("models.example"));
    assert!(any("other.example").is_err());
    for guarded in
        ["127.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fe80::1", "0.0.0.0", "fd00:ec2::254"]
    {
        assert!(resolved(&listed, "models.example", &[guarded]).is_err(), "{guarded}");
        assert!(resolved(&[], "models.example", &[guarded]).is_err(), "{guarded}");
        assert!(resolved(&["models.example", guarded], "models.example", &[guarded]).is_ok(), "{guarded}");
    }
}

#[test]
fn a_network_permits_its_addresses_whatever_name_leads_there() {
    let listed = ["10.0.0.0/8"];
    assert_eq!(resolved(&listed, "edge.site", &["10.0.0.7", "192.168.0.1"]), Ok(vec!["10.0.0.7".to_owned()]));
    assert!(resolved(&listed, "edge.site", &["192.168.0.1"]).is_err());
}

#[test]
fn localhost_stands_for_loopback() {
    for listed in ["localhost", "127.0.0.0/8"] {
        assert_eq!(check(&[listed], "http://localhost:8000"), Ok(()));
        assert_eq!(check(&[listed], "http://127.0.0.1:8000"), Ok(()));
        assert_eq!(resolved(&[listed], "localhost", &["127.0.0.1"]).map(|addresses| addresses.len()), Ok(1));
    }
    assert_eq!(check(&["localhost"], "http://[::1]:8000"), Ok(()));
    assert!(check(&["127.0.0.0/8"], "http://[::1]:8000").is_err());
    assert_eq!(check(&["::1"], "http://localhost:8000"), Ok(()));
}

#[test]
fn a_name_without_addresses_is_no_matter_of_rules() {
    assert_eq!(resolved(&["10.0.0.0/8"], "edge.site", &[]), Ok(vec![]));
}

#[test]
fn a_denial_names_the_host_the_reason_and_the_flag() {
    for (denied, message) in [
        (
            check(&["10.0.0.0/8"], "http://127.0.0.1:8000/a?secret").err(),
            "127.0.0.1 is a loopback address, which is reached only where it is listed by address; if that is meant, add --allow-upstream 127.0.0.0/8",
        ),
        (
            check(&[], "http://localhost:8000").err(),
            "localhost resolves to 127.0.0.1, a loopback address, which is reached only where it is listed by address; if that is meant, add --allow-upstream 127.0.0.0/8, and everything else that this agent reaches: with an entry, only what is listed is reached",
        ),
        (
            resolved(&["models.example"], "models.example", &["::ffff:169.254.169.254"]).err(),
            "models.example resolves to 169.254.169.254, a link-local address, which is reached only where it is listed by address; if that is meant, add --allow-upstream 169.254.169.254",
        ),
        (
            check(&["models.example"], "https://user:secret@cdn.example/m?secret").err(),
            "cdn.example is not among what --allow-upstream lists; to reach it, add --allow-upstream cdn.example",
        ),
        (
            check(&["models.example"], "https://[fd00::1]/m").err(),
            "[fd00::1] is not among what --allow-upstream lists; to reach it, add --allow-upstream fd00::1",
        ),
        (
            resolved(&["10.0.0.0/8"], "edge.site", &["192.168.0.1"]).err(),
            "edge.site resolves to 192.168.0.1, and --allow-upstream lists neither; to reach it, add --allow-upstream edge.site or --allow-upstream 192.168.0.1",
        ),
    ] {
        assert_eq!(denied.as_deref(), Some(message));
    }
}

#[test]
fn the_api_server_is_reached_only_where_its_address_is_listed() {
    let guarded =
        |listed: &[&str]| egress(listed).guarding(["10.96.0.1", "[fd00::a]", "K8s.example.", "fd00::b"]);
    let check = |listed: &[&str], url: &str| guarded(listed).check_url(&Url::parse(url).unwrap()).is_ok();
    let resolved = |listed: &[&str], name: &str, address: &str| {
        let address = SocketAddr::new(address.parse().unwrap(), 0);
        guarded(listed).permitted(name, std::iter::once(address)).is_ok()
    };
    for url in [
        "https://10.96.0.1",
        "http://10.96.0.1:8000/any/port",
        "https://[::ffff:10.96.0.1]",
        "https://[64:ff9b::a60:1]",
        "https://[fd00::a]",
        "https://[fd00::b]:6443",
    ] {
        assert!(!check(&[], url), "{url}");
    }
    for (name, address) in [
        ("kubernetes.default.svc", "10.96.0.1"),
        ("edge.example", "fd00::b"),
        // Its own name, whatever it resolves to.
        ("k8s.example", "192.0.2.1"),
        ("K8S.EXAMPLE.", "192.0.2.2"),
    ] {
        assert!(!resolved(&[], name, address), "{name}");
        assert!(!resolved(&[name, "10.1.0.0/16"], name, address), "{name} is listed by name");
        assert!(resolved(&[address], name, address), "{name} is listed by address");
    }
    assert!(check(&["10.96.0.0/16"], "https://10.96.0.1"));
    assert!(check(&[], "http://10.96.0.2") && resolved(&[], "edge.example", "10.96.0.2"));
    // Its name resolved to this.
    let egress = guarded(&[]);
    egress.api_server.learn(["192.0.2.7".parse().unwrap()]);
    let denied = egress.check_url(&Url::parse("https://192.0.2.7:6443").unwrap()).unwrap_err().to_string();
    assert_eq!(
        denied,
        "192.0.2.7 is the cluster's API server, which is reached only where it is listed by address; if that is meant, add --allow-upstream 192.0.2.7, and everything else that this agent reaches: with an entry, only what is listed is reached"
    );
}
