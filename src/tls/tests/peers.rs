//! Peers with set-ups of their own: what they are shown, whom they may be, in both directions.

use super::*;
use HandshakeFailure as Why;

/// Two organisations: ours, with the endpoint side's CA, and the partner's, whose CA is trusted for its proxy only.
struct Two {
    folder: Folder,
    ours: Ca,
    theirs: Ca,
}

impl Two {
    fn new(name: &str) -> Self {
        Self { folder: Folder::new(name), ours: Ca::new("ours"), theirs: Ca::new("theirs") }
    }

    /// `tls-mutual = 1` with our CA, a server that is reached over UDP, and two sites behind the partner's CA. `own`
    /// stands in the table of the first, and `more` before it.
    fn config(&self, own: &str, more: &str) -> Config {
        let (cert, key) = self.ours.issue(|_| {});
        let (cert, key) = (self.folder.write("cert.pem", &cert), self.folder.write("key.pem", &key));
        let (client, client_key) =
            self.theirs.issue(|params| params.subject_alt_names = vec![dns("us.theirs.example")]);
        self.folder.write("client.pem", &client);
        self.folder.write("client.key", &client_key);
        let ca = self.folder.write("ca.pem", &self.ours.pem);
        let partner = self.folder.write("partner.pem", &self.theirs.pem);
        let text = format!(
            "[[sip-server]]\nname = \"sips1\"\nprimary = \"127.0.0.1:7000\"\ntls-name = \"sips1.example.com\"\n{more}\
             [[peer-proxy]]\nname = \"site2\"\nservers = [\"10.2.0.1\"]\npeer-proxy-contact = \"site2.example.com\"\n\
             trusted-ca = {partner:?}\n{own}\
             [[peer-proxy]]\nname = \"site3\"\nservers = [\"10.3.0.1\"]\npeer-proxy-contact = \"site3.example.com\"\n\
             trusted-ca = {partner:?}\n\
             [[peer-proxy]]\nname = \"site4\"\nservers = [\"10.4.0.1\"]\npeer-proxy-contact = \"site4.example.com\"\n\
             [security]\ntls-mutual = 1\ncertificate = {cert:?}\ncertificate-key = {key:?}\ntrusted-ca = {ca:?}\n"
        );
        Config::parse(&text, "hawser.toml").unwrap_or_else(|fault| panic!("{fault}"))
    }

    fn own_certificate(&self) -> String {
        let (cert, key) = (self.folder.0.join("client.pem"), self.folder.0.join("client.key"));
        format!("certificate = {cert:?}\ncertificate-key = {key:?}\n")
    }
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.to_owned().try_into().unwrap())
}

/// What such a certificate's owner makes sessions with: it trusts both CAs, and asks whoever connects for a certificate.
fn party(two: &Two, ca: &Ca, names: &[&str]) -> SetUp {
    party_with(two, ca, names, |_| {})
}

fn party_with(two: &Two, ca: &Ca, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> SetUp {
    let folder = Folder::new("peers-party");
    let (cert, key) = ca.issue(|params| {
        params.subject_alt_names = names.iter().map(|name| dns(name)).collect();
        change(params);
    });
    let both = format!("{}{}", two.ours.pem, two.theirs.pem);
    made(&config_with(&folder, (&cert, &key), &both, BY_NAME, "tls-mutual = 1\n"))
}

/// We connect to the n-th site, where this certificate's owner is. The names of the certificate that we have shown.
fn connect(ours: &Tls, config: &Config, site: usize, theirs: &SetUp) -> Result<Vec<String>, Why> {
    let mut pair = Pair::of(ours.connect(&config.peers[site].tls_peer()).unwrap(), &theirs.tls);
    match pair.run(usize::MAX) {
        (Some(fault), _) | (None, Some(fault)) => Err(failure::reason(&fault)),
        (None, None) => Ok(theirs.tls.identities(&pair.server).map(|shown| shown.dns).unwrap_or_default()),
    }
}

/// The handshake the other way round: who it was found to be.
fn accept(ours: &Tls, side: Option<Side>, theirs: &SetUp) -> Result<Identities, Why> {
    let mut pair = Pair::of(theirs.tls.connect(&theirs.peer).unwrap(), ours);
    pair.server = ours.accept(side).unwrap();
    match pair.run(usize::MAX).1 {
        Some(fault) => Err(failure::reason(&fault)),
        None => Ok(ours.identities_of_client(&pair.server, side).unwrap()),
    }
}

#[test]
fn a_peers_ca_counts_for_that_peer_when_we_connect_and_ours_does_not() {
    let two = Two::new("peers-out");
    let config = two.config("", "");
    let (ours, inventory) = set_up(&config).unwrap();
    let theirs = |name: &str| party(&two, &two.theirs, &[name]);
    assert_eq!(connect(&ours, &config, 0, &theirs("site2.example.com")), Ok(vec!["sips1.example.com".to_owned()]));
    assert_eq!(connect(&ours, &config, 0, &theirs("site3.example.com")), Err(Why::Name));
    let impostor = party(&two, &two.ours, &["site2.example.com"]);
    assert_eq!(connect(&ours, &config, 0, &impostor), Err(Why::UnknownCa), "our own CA has no say in who they are");
    assert_eq!(connect(&ours, &config, 2, &theirs("site4.example.com")), Err(Why::UnknownCa), "nor theirs elsewhere");
    let site4 = party(&two, &two.ours, &["site4.example.com"]);
    assert_eq!(connect(&ours, &config, 2, &site4), Ok(vec!["sips1.example.com".to_owned()]));
    let files: Vec<_> = inventory.authorities.iter().map(|ca| ca.path.file_name().unwrap().to_owned()).collect();
    assert_eq!(files, ["ca.pem", "partner.pem"], "each file once, though two sites name it");
}

#[test]
fn a_peer_is_shown_the_certificate_that_is_kept_for_it() {
    let two = Two::new("peers-own");
    let config = two.config(&two.own_certificate(), "");
    let (ours, inventory) = set_up(&config).unwrap();
    let shown = |site: usize, name: &str| connect(&ours, &config, site, &party(&two, &two.theirs, &[name]));
    assert_eq!(shown(0, "site2.example.com"), Ok(vec!["us.theirs.example".to_owned()]));
    assert_eq!(shown(1, "site3.example.com"), Ok(vec!["sips1.example.com".to_owned()]), "the side's");
    let leaves: Vec<_> = inventory.leaves.iter().map(|leaf| leaf.peer.as_deref()).collect();
    assert_eq!(leaves, [None, Some("peer-proxy site2")]);
    let files = ours.files(Side::Endpoint, config.peers[0].tls_peer().setup);
    assert_eq!(files.certificate.as_deref(), Some(two.folder.0.join("client.pem").as_path()));
    // None at all, to a peer that asks for one.
    let none = two.config("certificate = \"\"\n", "");
    let ours = set_up(&none).unwrap().0;
    assert_eq!(connect(&ours, &none, 0, &party(&two, &two.theirs, &["site2.example.com"])), Err(Why::None));
}

#[test]
fn peers_with_the_same_files_share_one_set_up_and_none_takes_up_a_session() {
    let two = Two::new("peers-shared");
    let config = two.config("", "");
    let setups: Vec<_> = config.peers.iter().map(|peer| peer.tls_peer().setup).collect();
    assert_eq!(setups, [Some(SetupId(0)), Some(SetupId(0)), None]);
    let ours = set_up(&config).unwrap().0;
    // A ticket from one site is shown to no other, and not to the same one either.
    let theirs = party(&two, &two.theirs, &["site2.example.com", "site3.example.com"]);
    let open = Folder::new("peers-tickets");
    let (cert, key) = two.theirs.issue(|params| params.subject_alt_names = vec![dns("site2.example.com")]);
    let gives_tickets = set_up(&super::config(&open, &cert, &key, &two.theirs.pem, BY_NAME)).unwrap().0;
    for tls in [&gives_tickets, &gives_tickets, &theirs.tls] {
        let mut pair = Pair::of(ours.connect(&config.peers[0].tls_peer()).unwrap(), tls);
        assert_eq!(pair.run(usize::MAX), (None, None));
        assert!(!pair.server.is_resumed());
    }
}

#[test]
fn a_peers_ca_lets_that_peer_in_and_nobody_else() {
    let two = Two::new("peers-in");
    let config = two.config("", "");
    let ours = set_up(&config).unwrap().0;
    let setup = SetupId(0);
    for side in [None, Some(Side::Endpoint), Some(Side::Server)] {
        let by = |ca: &Ca, names: &[&str]| accept(&ours, side, &party(&two, ca, names));
        let site2 = by(&two.theirs, &["site2.example.com"]).unwrap();
        assert_eq!((site2.peers.as_slice(), site2.of_peers_only), (&[(Side::Endpoint, setup)][..], true), "{side:?}");
        assert!(by(&two.theirs, &["site3.example.com"]).unwrap().is_vouched_for(Side::Endpoint, Some(setup)));
        for strangers in [&["phone.example.com"][..], &["site4.example.com"], &["sips1.example.com"], &[]] {
            assert_eq!(by(&two.theirs, strangers), Err(Why::Name), "{side:?} {strangers:?}");
        }
        // Our CA's are let in as ever, and have no say in who is the partner.
        let phone = by(&two.ours, &["phone.example.com"]).unwrap();
        assert_eq!((phone.peers.as_slice(), phone.of_peers_only), (&[][..], false));
        let impostor = by(&two.ours, &["site2.example.com"]).unwrap();
        assert!(!impostor.is_vouched_for(Side::Endpoint, Some(setup)) && !impostor.of_peers_only);
        assert!(by(&two.ours, &["site4.example.com"]).unwrap().is_vouched_for(Side::Endpoint, None));
        let stranger = Ca::new("stranger");
        assert_eq!(by(&stranger, &["site2.example.com"]), Err(Why::UnknownCa), "{side:?}");
        let expired = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
        let late = party_with(&two, &two.theirs, &["site2.example.com"], expired);
        assert_eq!(accept(&ours, side, &late), Err(Why::Expired));
    }
}

#[test]
fn cas_of_one_name_are_told_apart_by_their_keys() {
    let two = Two { folder: Folder::new("peers-name"), ours: Ca::new("ca"), theirs: Ca::new("ca") };
    let config = two.config("", "");
    let ours = set_up(&config).unwrap().0;
    for side in [None, Some(Side::Endpoint), Some(Side::Server)] {
        let by = |ca: &Ca, names: &[&str]| accept(&ours, side, &party(&two, ca, names));
        assert!(by(&two.theirs, &["site2.example.com"]).unwrap().of_peers_only, "{side:?}");
        assert_eq!(by(&two.theirs, &["phone.example.com"]), Err(Why::Name));
        assert!(!by(&two.ours, &["phone.example.com"]).unwrap().of_peers_only);
        assert!(!by(&two.ours, &["site2.example.com"]).unwrap().is_vouched_for(Side::Endpoint, Some(SetupId(0))));
    }
}

#[test]
fn a_list_for_a_peer_counts_for_it_alone() {
    let two = Two::new("peers-crl");
    let crl = two.folder.write("crl.pem", &two.theirs.revokes(&[5], (2090, 1, 1)));
    let config = two.config(&format!("crl = {crl:?}\n"), "");
    let (ours, inventory) = set_up(&config).unwrap();
    assert_eq!(inventory.crls.len(), 1);
    let with_serial = |name: &str, serial: u64| {
        party_with(&two, &two.theirs, &[name], |params| params.serial_number = Some(serial.into()))
    };
    let (site2, site3) = ("site2.example.com", "site3.example.com");
    assert_eq!(connect(&ours, &config, 0, &with_serial(site2, 5)), Err(Why::Revoked));
    assert!(connect(&ours, &config, 0, &with_serial(site2, 6)).is_ok());
    assert!(connect(&ours, &config, 1, &with_serial(site3, 5)).is_ok());
    assert_eq!(accept(&ours, None, &with_serial(site2, 5)), Err(Why::Revoked));
    assert!(accept(&ours, None, &with_serial(site2, 6)).is_ok());
    assert!(accept(&ours, None, &with_serial(site3, 5)).is_ok());
}

#[test]
fn a_servers_own_ca_makes_a_server_where_servers_are_and_lets_nobody_in_elsewhere() {
    let two = Two::new("peers-server");
    let partner = two.folder.write("partner.pem", &two.theirs.pem);
    let config = two.config("", &format!("trusted-ca = {partner:?}\n"));
    let setup = config.servers[0].setup.unwrap().id;
    let ours = set_up(&config).unwrap().0;
    let server = || party(&two, &two.theirs, &["sips1.example.com"]);
    for side in [None, Some(Side::Server)] {
        let found = accept(&ours, side, &server()).unwrap();
        assert!(found.is_vouched_for(Side::Server, Some(setup)) && found.of_peers_only);
    }
    assert_eq!(accept(&ours, Some(Side::Endpoint), &server()), Err(Why::Name));
    // What the phones' CA says of servers counts no more than before.
    let impostor = accept(&ours, None, &party(&two, &two.ours, &["sips1.example.com"])).unwrap();
    assert!(!impostor.is_vouched_for(Side::Server, Some(setup)));
}

#[test]
fn a_peer_whose_name_does_not_count_is_let_in_by_no_ca_of_its_own() {
    let two = Two::new("peers-chain");
    let config = two.config("verify = \"chain\"\n", "");
    let ours = set_up(&config).unwrap().0;
    let anybody = party(&two, &two.theirs, &["anybody.example.com"]);
    assert!(connect(&ours, &config, 0, &anybody).is_ok(), "whom we connect to may have any name");
    assert_eq!(accept(&ours, None, &anybody), Err(Why::Name));
    assert_eq!(accept(&ours, None, &party(&two, &two.theirs, &["site2.example.com"])), Err(Why::Name));
    assert!(accept(&ours, None, &party(&two, &two.theirs, &["site3.example.com"])).is_ok());
}

#[test]
fn a_peers_file_that_is_of_no_use_is_named() {
    let two = Two::new("peers-faults");
    let fault = |own: &str| set_up(&two.config(own, "")).unwrap_err().to_string();
    let own = two.own_certificate();
    two.folder.write("crl.pem", "garbage");
    let crl = two.folder.0.join("crl.pem");
    assert!(fault(&format!("crl = {crl:?}\n")).contains("crl.pem: holds no certificate revocation list"));
    let mismatch = own.lines().next().unwrap();
    assert!(fault(&format!("{mismatch}\n")).contains("key.pem: is not the key of the certificate in"));
}
