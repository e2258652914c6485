//! Who witnesses the audit trail: the views that were signed with it, and the boxes that have them.

use super::*;
use crate::audit::Trail;

/// The trail with another first deed, hashed anew to its end.
fn written_anew(world: &World) -> Vec<(String, String)> {
    let mut trail = Trail::default();
    let deeds = world.audit().into_iter();
    deeds
        .map(|deed| {
            let origin = Origin {
                who: deed.who.replace("uid 0", "uid 7"),
                from: deed.from,
            };
            let (number, text) = trail.append(deed.when, &origin, &deed.what);
            (format!("audit/{number:010}"), text)
        })
        .collect()
}

/// What a controller says of a store with these changes.
fn said_of(world: &World, changes: &[(String, Option<String>)]) -> String {
    let mut entries = world.entries.clone();
    for (key, value) in changes {
        match value {
            Some(text) => drop(entries.insert(key.clone(), (world.revision, text.clone()))),
            None => drop(entries.remove(key)),
        }
    }
    let controller = Controller::load(&listed(&entries), keys()).unwrap();
    let broken = &controller.image.audit_broken;
    broken
        .as_ref()
        .map_or_else(String::new, ToString::to_string)
}

fn world() -> (World, Box_) {
    let mut world = World::new();
    world.add("kab-demak", &["10.44.0.0/16"]);
    let mut member = world.join(1, "kab-demak/gw1", &["10.44.1.0/24"], None);
    world.take_view(&mut member);
    (world, member)
}

#[test]
fn signed_views_tell_a_trail_that_was_cut_or_written_anew() {
    let (world, _) = world();
    assert_eq!(said_of(&world, &[]), "");
    let last = format!("audit/{:010}", world.audit().len() - 1);
    let cut = said_of(&world, &[(last, None)]);
    assert!(
        cut.contains("but the view of kab-demak/gw1 has seen"),
        "{cut}"
    );
    let anew: Vec<_> = written_anew(&world)
        .into_iter()
        .map(|(key, text)| (key, Some(text)))
        .collect();
    let said = said_of(&world, &anew);
    assert!(
        said.contains("not the one that the view of kab-demak/gw1 has seen"),
        "{said}"
    );
}

#[test]
fn a_join_says_where_it_came_from() {
    let (world, _) = world();
    let join = world.audit().pop().unwrap();
    assert_eq!(join.who, "node kab-demak/gw1");
    assert_eq!(join.from, "198.51.100.7:40000");
}

#[test]
fn a_box_that_has_seen_another_trail_is_what_needs_attention_first() {
    let (mut world, mut member) = world();
    world.connect(&mut member);
    let told = |world: &mut World| world.node_status("kab-demak/gw1").attention;
    assert_eq!(told(&mut world), Vec::<String>::new());

    let seen = member.manifest.as_mut().unwrap();
    seen.audit.entries += 7;
    world.connect(&mut member);
    let attention = told(&mut world);
    assert!(
        attention[0].contains("an old copy was put back"),
        "{attention:?}"
    );
    member.manifest.as_mut().unwrap().audit.entries = 1;
    world.connect(&mut member);
    let attention = told(&mut world);
    assert!(attention[0].contains("written anew"), "{attention:?}");
}
