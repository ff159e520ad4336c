//! The to-do list: an item added on one page appears on all, and its contents stay
//! text.

use crate::program::{Program, agent};

#[test]
fn a_change_reaches_all_pages_as_html() {
    let program = Program::start("htmx-todo", &[], 1);
    program.check_page();
    let mut tabs = [program.events("/events"), program.events("/events")];
    for tab in &mut tabs {
        assert!(tab.next().contains("Nothing to do."));
    }

    let mut added = program.post("/items", &[("text", "buy <milk>")], "");
    assert_eq!(added.status(), 200);
    assert!(added.body_mut().read_to_string().unwrap().starts_with("<form"));
    for tab in &mut tabs {
        let list = tab.next();
        assert!(list.contains("buy &#60;milk&#62;") && !list.contains("<milk>"), "{list}");
        assert!(list.contains(r#"aria-pressed="false""#));
    }
    assert!(program.get("/").contains("buy &#60;milk&#62;"));

    assert_eq!(program.post("/items/1", &[], "").status(), 204);
    for tab in &mut tabs {
        assert!(tab.next().contains(r#"aria-pressed="true""#));
    }
    assert_eq!(agent().delete(program.url("/items/1")).call().unwrap().status(), 204);
    for tab in &mut tabs {
        assert!(tab.next().contains("Nothing to do."));
    }
}

#[test]
fn the_list_is_bounded() {
    let program = Program::start("htmx-todo", &[], 1);
    let add = |text: &str| program.post("/items", &[("text", text)], "").body_mut().read_to_string().unwrap();
    assert!(add("  ").contains("Enter 1 to 400 bytes."));
    let long = "x".repeat(401);
    assert!(add(&long).contains(&format!("value=\"{long}\"")), "the text stays in the form");
    for n in 1..=100 {
        assert!(add("again").contains("<p role=\"alert\"></p>"), "{n}");
    }
    assert!(
        add("<one more>").contains("value=\"&#60;one more&#62;\"")
            && add("more").contains("The list is full.")
    );
    assert_eq!(program.get("/").matches("<li>").count(), 100);
}
