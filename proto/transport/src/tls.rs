//! TLS 1.3 with raw public keys on both sides (RFC 7250), for quinn.
//!
//! There is no certificate authority and nothing expires, so nothing can strand a box.
//! Resumption is off on both sides and there is no 0-RTT: a resumed session would skip the judge of the key.

use std::fmt;
use std::sync::Arc;

use ed25519_dalek::SigningKey;
use pnsbox_proto::key::IdentityKey;
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    SignatureScheme,
};

use crate::raw_key;

/// Judges the key of the other side during the handshake. Asked anew for every connection.
pub trait KeyPolicy: fmt::Debug + Send + Sync + 'static {
    /// Whether a connection with this key may stand.
    fn accepts(&self, key: &IdentityKey) -> bool;
}

/// Accepts this key and no other.
#[derive(Debug, Clone, Copy)]
pub struct OnlyKey(pub IdentityKey);

impl KeyPolicy for OnlyKey {
    fn accepts(&self, key: &IdentityKey) -> bool {
        *key == self.0
    }
}

/// Accepts every key that the other side can prove: the caller judges it by what is said next.
#[derive(Debug, Clone, Copy)]
pub struct AnyKey;

impl KeyPolicy for AnyKey {
    fn accepts(&self, _key: &IdentityKey) -> bool {
        true
    }
}

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rustls refused the key or the versions.
    #[error("TLS cannot be set up")]
    Rustls(#[from] Error),
    /// The provider lacks the suite of QUIC's first packets.
    #[error("TLS lacks a cipher suite that QUIC needs")]
    InitialSuite(#[from] NoInitialCipherSuite),
}

/// What a dialling endpoint needs: proves `key`, demands a key that `policy` accepts.
pub fn client_config(
    key: &SigningKey,
    policy: Arc<dyn KeyPolicy>,
    alpn: &[u8],
) -> Result<quinn::ClientConfig, TlsError> {
    let provider = provider();
    let certified = certified_key(key, &provider)?;
    let mut tls = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { policy, provider }))
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(certified)));
    tls.alpn_protocols = vec![alpn.to_vec()];
    tls.resumption = Resumption::disabled();
    tls.enable_early_data = false;
    tls.enable_sni = false;
    Ok(quinn::ClientConfig::new(Arc::new(
        QuicClientConfig::try_from(tls)?,
    )))
}

/// What a listening endpoint needs: proves `key`, demands a key that `policy` accepts.
pub fn server_config(
    key: &SigningKey,
    policy: Arc<dyn KeyPolicy>,
    alpn: &[u8],
) -> Result<quinn::ServerConfig, TlsError> {
    let provider = provider();
    let certified = certified_key(key, &provider)?;
    let mut tls = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(Verifier { policy, provider }))
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified)));
    tls.alpn_protocols = vec![alpn.to_vec()];
    tls.send_tls13_tickets = 0;
    tls.max_early_data_size = 0;
    Ok(quinn::ServerConfig::with_crypto(Arc::new(
        QuicServerConfig::try_from(tls)?,
    )))
}

/// The key that the other side of a connection proved.
pub fn peer_key(connection: &quinn::Connection) -> Option<IdentityKey> {
    let identity = connection
        .peer_identity()?
        .downcast::<Vec<CertificateDer<'static>>>()
        .ok()?;
    raw_key::from_spki(identity.first()?)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn certified_key(key: &SigningKey, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
    let pkcs8 = PrivatePkcs8KeyDer::from(raw_key::to_pkcs8(key.as_bytes()));
    let signer = provider.key_provider.load_private_key(pkcs8.into())?;
    let public = IdentityKey(key.verifying_key().to_bytes());
    let spki = CertificateDer::from(raw_key::to_spki(&public));
    Ok(Arc::new(CertifiedKey::new(vec![spki], signer)))
}

/// Demands a raw public key that the policy accepts, from clients and servers alike.
#[derive(Debug)]
struct Verifier {
    policy: Arc<dyn KeyPolicy>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn judge(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        if !intermediates.is_empty() {
            return Err(CertificateError::BadEncoding.into());
        }
        let key = raw_key::from_spki(end_entity).ok_or(CertificateError::BadEncoding)?;
        if self.policy.accepts(&key) {
            Ok(())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls13(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(cert.as_ref());
        verify_tls13_signature_with_raw_key(
            message,
            &spki,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }
}

/// QUIC is TLS 1.3 only, so a TLS 1.2 signature is never asked about.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity, intermediates)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_tls13(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
