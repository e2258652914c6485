//! Two of our tunnels over a network that loses, repeats and reorders, by many random schedules in virtual time.
//! Whatever it does, nothing is delivered twice or altered, and when it recovers both sides talk again.

use std::collections::HashSet;
use std::time::Instant;

use super::testing::{Node, Random, TICK, exchange, seed, strangers};
use super::*;

/// The schedules of one run, 3 ms each without optimisation; `PNSBOX_SCHEDULES` chooses another number.
const SCHEDULES: u64 = 1_000;

/// Datagrams of both directions under way.
#[derive(Default)]
struct Network {
    /// To `b` if true, and what.
    flying: Vec<(bool, Vec<u8>)>,
    /// What flew before and comes again.
    old: Vec<(bool, Vec<u8>)>,
}

/// How bad a network is: one in so many.
struct Weather {
    loss: u64,
    repeat: u64,
    delay: u64,
    forge: u64,
}

impl Weather {
    fn draw(random: &mut Random) -> Self {
        Self {
            loss: 2 + random.below(10),
            repeat: 2 + random.below(20),
            delay: 2 + random.below(10),
            forge: 5 + random.below(50),
        }
    }
}

impl Network {
    fn take(&mut self, a: &mut Node, b: &mut Node) {
        let to_b = a.outbox.drain(..).map(|datagram| (true, datagram));
        let to_a = b.outbox.drain(..).map(|datagram| (false, datagram));
        self.flying.extend(to_b.chain(to_a));
    }

    /// Delivers some of what flies, in any order.
    fn deliver(
        &mut self,
        a: &mut Node,
        b: &mut Node,
        now: Instant,
        weather: &Weather,
        random: &mut Random,
    ) {
        for _ in 0..self.flying.len() {
            if random.is_one_in(weather.delay) {
                continue;
            }
            let place = random.below(self.flying.len() as u64) as usize;
            let (to_b, mut datagram) = self.flying.swap_remove(place);
            if random.is_one_in(weather.repeat) {
                self.old.push((to_b, datagram.clone()));
            }
            if random.is_one_in(weather.loss) {
                continue;
            }
            if random.is_one_in(weather.forge) {
                let place = random.below(datagram.len() as u64) as usize;
                datagram[place] ^= 1 << random.below(8);
            }
            let node = if to_b { &mut *b } else { &mut *a };
            node.receive(&datagram, now).ok();
        }
        if !self.old.is_empty() && random.is_one_in(weather.repeat) {
            let place = random.below(self.old.len() as u64) as usize;
            self.flying.push(self.old[place].clone());
        }
    }
}

/// One schedule: a while of bad weather, then a good network.
fn run(number: u64) {
    seed(number);
    let mut random = Random::new(number ^ 0x5eed);
    let (mut a, mut b) = strangers();
    let (mut network, weather) = (Network::default(), Weather::draw(&mut random));
    let mut now = Instant::now();
    let mut sent = 0u64;
    for _ in 0..20 + random.below(60) {
        now += match random.below(40) {
            0 => Duration::from_secs(random.below(200)),
            1..4 => Duration::from_secs(random.below(8)),
            _ => TICK,
        };
        for node in [&mut a, &mut b] {
            if random.is_one_in(3) {
                node.send(&packet(sent), now);
                sent += 1;
            }
            if random.is_one_in(40) {
                node.initiate(now);
            }
            node.tick(now);
        }
        network.take(&mut a, &mut b);
        network.deliver(&mut a, &mut b, now, &weather, &mut random);
    }
    let delivered: Vec<&Vec<u8>> = a.inbox.iter().chain(&b.inbox).collect();
    let different: HashSet<_> = delivered.iter().collect();
    assert_eq!(
        different.len(),
        delivered.len(),
        "seed {number}: delivered twice"
    );
    let genuine: HashSet<Vec<u8>> = (0..sent).map(packet).collect();
    assert!(
        delivered.iter().all(|packet| genuine.contains(*packet)),
        "seed {number}: altered"
    );
    recover(&mut a, &mut b, now, number);
}

/// The network is good from now on. A session that one side lost is found dead after 15 s without an answer, and
/// replaced in 5 s more at most, twice if initiations cross.
fn recover(a: &mut Node, b: &mut Node, mut now: Instant, number: u64) {
    for tick in 0..5 * 30 {
        now += TICK;
        for node in [&mut *a, &mut *b] {
            if tick % 10 == 0 {
                node.send(b"are you there?", now);
            }
            node.tick(now);
        }
        exchange(a, b, now);
    }
    for node in [&mut *a, &mut *b] {
        node.inbox.clear();
        node.send(b"it works", now);
    }
    exchange(a, b, now);
    for node in [a, b] {
        assert_eq!(
            node.inbox,
            [b"it works".to_vec()],
            "seed {number}: no convergence"
        );
    }
}

/// A packet like no other.
fn packet(number: u64) -> Vec<u8> {
    let mut packet = number.to_le_bytes().to_vec();
    packet.resize(8 + (number % 90) as usize, 0xab);
    packet
}

#[test]
fn random_schedules_deliver_nothing_twice_and_always_converge() {
    let schedules = std::env::var("PNSBOX_SCHEDULES").ok();
    let schedules = schedules.map_or(SCHEDULES, |number| number.parse().unwrap());
    (0..schedules).for_each(run);
}
