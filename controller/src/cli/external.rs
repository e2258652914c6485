//! Plain WireGuard devices: their key pairs and wg-quick configurations.
//!
//! A key pair is made here, on the operator's side: the controller gets the public key alone,
//! and the private one is printed and forgotten.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Subcommand;
use ipnet::IpNet;
use pnsbox_controller_core::operator::{Answer, ExternalLine, Request};
use pnsbox_proto::id::{AgencyName, NodeName};
use pnsbox_proto::key::WireguardKey;
use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};
use serde_json::json;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use super::{exit, refused, render, show};
use crate::config::Config;
use crate::{keys, operator};

#[derive(Debug, Subcommand)]
pub(super) enum ExternalCommand {
    /// Admit a device and print its configuration for wg-quick, or as a QR code for a telephone.
    Add {
        /// The device's own label, for example laptop-budi.
        name: String,
        /// The agency that it belongs to; one of its nodes needs a public endpoint.
        #[arg(long)]
        agency: AgencyName,
        /// The device's public key, if it has a key pair; otherwise one is made and printed, once.
        #[arg(long, value_name = "KEY")]
        public_key: Option<WireguardKey>,
        /// Show the QR code also when standard output is no terminal; it goes to standard error.
        #[arg(long, conflicts_with = "public_key")]
        qr: bool,
    },
    /// List devices.
    List,
    /// Print the configuration of a device again, without its private key.
    Show {
        /// For example kab-demak/laptop-budi.
        device: NodeName,
    },
    /// Remove a device; its gateway forgets it at once.
    Remove {
        /// For example kab-demak/laptop-budi.
        device: NodeName,
    },
}

/// Does what was typed.
pub(super) fn run(config: &Config, command: ExternalCommand, json: bool) -> ExitCode {
    let asked = match command {
        ExternalCommand::Add {
            name,
            agency,
            public_key,
            qr,
        } => {
            let device = match NodeName::new(&agency, &name) {
                Ok(device) => device,
                Err(error) => return exit::failure(exit::DATA, &error),
            };
            return match public_key {
                Some(wireguard) => ask(config, &Request::ExternalAdd { device, wireguard }, json),
                None => add(config, device, qr, json),
            };
        }
        ExternalCommand::List => Request::ExternalList,
        ExternalCommand::Show { device } => Request::ExternalShow { device },
        ExternalCommand::Remove { device } => Request::ExternalRemove { device },
    };
    ask(config, &asked, json)
}

fn ask(config: &Config, request: &Request, json: bool) -> ExitCode {
    match operator::ask(config, request) {
        Ok(Ok(answer)) => show(&answer, json),
        Ok(Err(refusal)) => refused(&refusal, None),
        Err(error) => exit::error(&error),
    }
}

/// Makes a key pair, admits its public half, and prints the other in the configuration.
fn add(config: &Config, device: NodeName, qr: bool, json: bool) -> ExitCode {
    let secret = match keys::random() {
        Ok(bytes) => StaticSecret::from(bytes),
        Err(error) => return exit::error(&error),
    };
    let wireguard = WireguardKey(PublicKey::from(&secret).to_bytes());
    let request = Request::ExternalAdd { device, wireguard };
    let external = match operator::ask(config, &request) {
        Ok(Ok(Answer::ExternalAdded { external })) => external,
        Ok(Ok(other)) => return show(&other, json),
        Ok(Err(refusal)) => return refused(&refusal, None),
        Err(error) => return exit::error(&error),
    };
    let private_key = Zeroizing::new(STANDARD.encode(secret.as_bytes()));
    let text = Zeroizing::new(configuration(&external, Some(&private_key)));
    exit::explain(&format!(
        "The configuration of {}, with its private key, which is kept nowhere: this is the only time that it is shown.",
        external.device
    ));
    if qr || (!json && std::io::stdout().is_terminal()) {
        exit::explain(&code(&text).unwrap_or_else(|| {
            "It is too long for a QR code: open fewer prefixes, or carry it as a file.".to_owned()
        }));
    }
    if json {
        let body = json!({ "external": external, "configuration": *text });
        return exit::success(&render::object("pnsbox.external/1", &body));
    }
    exit::success(&text)
}

/// Inner MTU, in bytes: that of the gateways' own interfaces.
const MTU: u16 = 1380;

/// Seconds between keepalives, below the 30 s of impatient NATs: a gateway can only answer.
const KEEPALIVE: u16 = 25;

/// A configuration for wg-quick(8), without a newline at its end.
pub(super) fn configuration(external: &ExternalLine, private_key: Option<&str>) -> String {
    let ExternalLine {
        device,
        overlay_v4,
        overlay_v6,
        gateway,
        gateway_wireguard,
        endpoint,
        second_endpoint,
        allowed_prefixes,
        ..
    } = external;
    let private_key = private_key.map_or_else(
        || "# The device's own private key belongs here:\n# PrivateKey = ".to_owned(),
        |key| format!("PrivateKey = {key}"),
    );
    let second = second_endpoint.map_or_else(String::new, |second| {
        let version = if second.is_ipv4() { 4 } else { 6 };
        format!("# Where there is IPv{version} only:\n# Endpoint = {second}\n")
    });
    let allowed: Vec<String> = allowed_prefixes.iter().map(IpNet::to_string).collect();
    format!(
        "# {device}\n\
         [Interface]\n\
         {private_key}\n\
         Address = {overlay_v4}/32, {overlay_v6}/128\n\
         MTU = {MTU}\n\
         \n\
         # {gateway}\n\
         [Peer]\n\
         PublicKey = {gateway_wireguard}\n\
         Endpoint = {endpoint}\n\
         {second}\
         AllowedIPs = {}\n\
         PersistentKeepalive = {KEEPALIVE}",
        allowed.join(", ")
    )
}

/// The text as a QR code of half blocks for terminals that write light on dark (readers take the inverse as well);
/// nothing if it is longer than a code can be (2,953 bytes, ISO/IEC 18004 table 7).
fn code(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let mut image = code.render::<Dense1x2>();
    image
        .dark_color(Dense1x2::Light)
        .light_color(Dense1x2::Dark);
    Some(image.build())
}

#[cfg(test)]
mod tests {
    use pnsbox_proto::time::UnixTime;

    use super::*;

    fn line(endpoint: &str) -> ExternalLine {
        ExternalLine {
            device: "kab-demak/laptop-budi".parse().unwrap(),
            wireguard: WireguardKey([1; 32]),
            overlay_v4: "100.127.0.9".parse().unwrap(),
            overlay_v6: "fd00::9".parse().unwrap(),
            gateway: "kab-demak/gw1".parse().unwrap(),
            gateway_wireguard: WireguardKey([2; 32]),
            endpoint: endpoint.parse().unwrap(),
            second_endpoint: None,
            allowed_prefixes: vec![
                "100.127.0.2/32".parse().unwrap(),
                "10.44.1.0/24".parse().unwrap(),
            ],
            added: UnixTime(0),
        }
    }

    #[test]
    fn a_configuration_is_what_wg_quick_reads() {
        let expected = "# kab-demak/laptop-budi\n\
            [Interface]\n\
            PrivateKey = SECRET\n\
            Address = 100.127.0.9/32, fd00::9/128\n\
            MTU = 1380\n\
            \n\
            # kab-demak/gw1\n\
            [Peer]\n\
            PublicKey = AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=\n\
            Endpoint = [2001:db8::1]:51820\n\
            AllowedIPs = 100.127.0.2/32, 10.44.1.0/24\n\
            PersistentKeepalive = 25";
        let line = line("[2001:db8::1]:51820");
        assert_eq!(configuration(&line, Some("SECRET")), expected);
        assert!(configuration(&line, None).contains("\n# PrivateKey = \n"));
        let line = ExternalLine {
            second_endpoint: Some("192.0.2.1:51820".parse().unwrap()),
            ..line
        };
        let with_both = expected.replace(
            ":51820\n",
            ":51820\n# Where there is IPv4 only:\n# Endpoint = 192.0.2.1:51820\n",
        );
        assert_eq!(configuration(&line, Some("SECRET")), with_both);
    }

    #[test]
    fn a_code_can_be_read_off_the_screen_unless_it_is_too_long() {
        let text = configuration(&line("192.0.2.1:51820"), Some("SECRET"));
        assert_eq!(read(&code(&text).unwrap()), text);
        let longest = "x".repeat(2953);
        assert_eq!(read(&code(&longest).unwrap()), longest);
        assert_eq!(code(&"x".repeat(2954)), None);
    }

    /// What a camera sees of a terminal that writes light on dark: two rows in each line, 4 by 4 pixels a module.
    fn read(screen: &str) -> String {
        let halves = |c| match c {
            '\u{2588}' => [255, 255],
            '\u{2580}' => [255, 0],
            '\u{2584}' => [0, 255],
            ' ' => [0, 0],
            other => panic!("{other:?} is no half block"),
        };
        let lines: Vec<Vec<[u8; 2]>> = screen
            .lines()
            .map(|line| line.chars().map(halves).collect())
            .collect();
        let (width, height) = (lines[0].len() * 4, lines.len() * 8);
        let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, height, |x, y| {
            lines[y / 8][x / 4][y / 4 % 2]
        });
        let grids = image.detect_grids();
        assert_eq!(grids.len(), 1);
        grids[0].decode().unwrap().1
    }
}
