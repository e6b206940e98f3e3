//! Certificates and keys as people keep them in files, and which of them a client is shown.

use super::*;

/// What a client is shown when it asks for `name`.
fn shown(tls: &Tls, ca: &Ca, name: &str) -> Vec<rustls::pki_types::CertificateDer<'static>> {
    let client = Session::connect(phone(ca, &[], &[&TLS13]), name.to_owned().try_into().unwrap()).unwrap();
    let mut pair = Pair::of(client, tls);
    assert_eq!(pair.run(usize::MAX), (None, None), "{name}");
    pair.client.peer_certificates().unwrap().to_vec()
}

#[test]
fn a_chain_is_put_in_order_and_what_does_not_belong_to_it_is_left_out() {
    let folder = Folder::new("files-order");
    let root = Ca::new("root");
    let upper = root.intermediate("upper", 1);
    let lower = upper.intermediate("lower", 2);
    let (cert, key) = lower.issue(|_| {});
    let stray = Ca::new("stray").pem;
    let want = [rustls_pki(&cert), rustls_pki(&lower.pem), rustls_pki(&upper.pem)];
    for parts in [
        vec![&cert, &lower.pem, &upper.pem],
        vec![&cert, &upper.pem, &lower.pem, &root.pem],
        vec![&root.pem, &upper.pem, &lower.pem, &cert],
        vec![&stray, &upper.pem, &cert, &lower.pem],
    ] {
        let file: String = parts.into_iter().map(String::as_str).collect();
        let tls = made(&config(&folder, &file, &key, &root.pem, BY_NAME)).tls;
        assert_eq!(shown(&tls, &root, "sips1.example.com"), want);
    }
    // Certificate and key in one file.
    let both = format!("{key}{cert}{}{}", lower.pem, upper.pem);
    let tls = made(&config(&folder, &both, &both, &root.pem, BY_NAME)).tls;
    assert_eq!(shown(&tls, &root, "sips1.example.com"), want);
}

#[test]
fn an_encrypted_key_is_named_as_such() {
    let folder = Folder::new("files-encrypted");
    let ca = Ca::new("ca");
    let (cert, _) = ca.issue(|_| {});
    for key in [
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n\
         -----END RSA PRIVATE KEY-----\n",
    ] {
        let fault = set_up(&config(&folder, &cert, key, &ca.pem, BY_NAME)).map(|_| ()).unwrap_err();
        assert!(matches!(fault, TlsError::Pem(pem::PemError::EncryptedKey(_))), "{fault}");
        assert!(fault.to_string().contains("key.pem: holds an encrypted private key"), "{fault}");
    }
}

#[test]
fn a_domain_has_its_certificate_and_an_unknown_name_gets_the_default_one() {
    let folder = Folder::new("files-sni");
    let ca = Ca::new("ca");
    let (cert, key) = ca.issue(|params| {
        let all = ["other.example.com", "unknown.example.com"];
        params.subject_alt_names.extend(all.map(|name| SanType::DnsName(name.try_into().unwrap())));
    });
    let more: String = ["one", "two"]
        .map(|name| {
            let domain = format!("{name}.example.com");
            let (cert, key) = ca.issue(|params| {
                params.subject_alt_names = vec![SanType::DnsName(domain.as_str().try_into().unwrap())];
            });
            let cert = folder.write(&format!("{name}.pem"), &cert);
            let key = folder.write(&format!("{name}.key"), &key);
            format!("[[security.sni]]\ndomain = {domain:?}\ncertificate = {cert:?}\ncertificate-key = {key:?}\n")
        })
        .concat();
    let config = config_with(&folder, (&cert, &key), &ca.pem, BY_NAME, &more);
    let (tls, inventory) = set_up(&config).unwrap();
    let domains: Vec<_> = inventory.leaves.iter().map(|leaf| leaf.domain.as_deref()).collect();
    assert_eq!(domains, [None, Some("one.example.com"), Some("two.example.com")]);
    let of = |at: usize| inventory.leaves[at].chain.clone();
    assert_eq!(shown(&tls, &ca, "one.example.com"), of(1));
    assert_eq!(shown(&tls, &ca, "TWO.example.com"), of(2));
    for name in ["sips1.example.com", "unknown.example.com"] {
        assert_eq!(shown(&tls, &ca, name), of(0));
    }
    // A file that is wrong is named, although it is not the default one's.
    folder.write("two.key", &KeyPair::generate().unwrap().serialize_pem());
    let fault = set_up(&config).map(|_| ()).unwrap_err().to_string();
    assert!(fault.contains("two.key: is not the key of the certificate in"), "{fault}");
}

#[test]
fn a_port_that_outlives_a_set_up_shows_the_certificate_that_is_in_use() {
    let folder = Folder::new("files-current");
    let ca = Ca::new("ca");
    let made_anew = || {
        let (cert, key) = ca.issue(|_| {});
        let tls = made(&config(&folder, &cert, &key, &ca.pem, BY_NAME)).tls;
        (tls.acceptor(None).unwrap().clone(), vec![rustls_pki(&cert)])
    };
    let (first, first_chain) = made_anew();
    let (second, second_chain) = made_anew();
    let current = Arc::new(CurrentCertificate::new(first.cert_resolver.clone()));
    let mut config = ServerConfig::clone(&first);
    config.cert_resolver = current.clone();
    let tls = Tls { accept_both: Some(Arc::new(config)), ..Tls::default() };
    assert_eq!(shown(&tls, &ca, "sips1.example.com"), first_chain);
    current.set(second.cert_resolver.clone());
    assert_eq!(shown(&tls, &ca, "sips1.example.com"), second_chain);
}

#[test]
fn the_order_of_suites_is_ours() {
    let folder = Folder::new("files-order-of-suites");
    let ca = Ca::new("ca");
    let (cert, key) = ca.issue(|_| {});
    let tls = made(&config(&folder, &cert, &key, &ca.pem, BY_NAME)).tls;
    let mut backwards = ring::default_provider();
    backwards.cipher_suites.reverse();
    for (version, want) in [
        (&TLS12, rustls::CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
        (&TLS13, rustls::CipherSuite::TLS13_AES_256_GCM_SHA384),
    ] {
        let mut trusted = RootCertStore::empty();
        trusted.add(rustls_pki(&ca.pem)).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(backwards.clone()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(trusted)
            .with_no_client_auth();
        let mut pair = Pair::of(call(&Arc::new(config)), &tls);
        assert_eq!(pair.run(usize::MAX), (None, None));
        assert_eq!(pair.server.agreed().map(|(_, suite)| suite), Some(want));
    }
}

#[test]
fn a_mark_before_the_text_is_passed_over() {
    let folder = Folder::new("files-bom");
    let ca = Ca::new("ca");
    let (cert, key) = ca.issue(|_| {});
    let marked = |text: &str| format!("\u{FEFF}{text}");
    set_up(&config(&folder, &marked(&cert), &marked(&key), &marked(&ca.pem), BY_NAME)).unwrap();
}

#[test]
fn what_a_file_holds_instead_is_named() {
    use rustls::pki_types::pem::PemObject;
    let folder = Folder::new("files-instead");
    let ca = Ca::new("ca");
    let (cert, key) = ca.issue(|_| {});
    let config = config(&folder, &cert, &key, &ca.pem, BY_NAME);
    let fault = || set_up(&config).map(|_| ()).unwrap_err().to_string();
    folder.write("cert.pem", &key);
    assert!(fault().ends_with("cert.pem: holds no certificate in PEM form, but PRIVATE KEY"), "{}", fault());
    let der = rustls::pki_types::CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
    std::fs::write(folder.0.join("cert.pem"), &der).unwrap();
    assert!(fault().contains("but binary data: `openssl x509 -inform DER`"), "{}", fault());
    folder.write("cert.pem", &cert);
    let secret = rustls::pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    std::fs::write(folder.0.join("key.pem"), secret.secret_der()).unwrap();
    assert!(fault().contains("but binary data: `openssl pkey -inform DER`"), "{}", fault());
    folder.write("key.pem", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n");
    assert!(fault().ends_with("(PKCS#8, PKCS#1 or SEC1), but OPENSSH PRIVATE KEY"), "{}", fault());
    // P-521, by `openssl ecparam -genkey`.
    folder.write("key.pem", "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n");
    assert!(
        fault().contains("key.pem: cannot be used: its private key is damaged or of a kind that is not taken"),
        "{}",
        fault()
    );
}
