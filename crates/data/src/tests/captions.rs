//! Texts beside images, and every way in which they can be wrong.

use super::save;
use crate::{ImageSet, Summary};
use std::fs;
use std::path::Path;

fn write(folder: &Path, lines: &str) {
    fs::write(folder.join("metadata.jsonl"), lines).unwrap();
}

/// Two images in subfolders; the lines stand in another order, with other fields, a blank line and the ends of Windows.
#[test]
fn captions_belong_to_images_by_their_names() {
    let folder = tempfile::tempdir().unwrap();
    for class in ["a", "b"] {
        fs::create_dir(folder.path().join(class)).unwrap();
        save(&folder.path().join(class).join("0.png"), 50);
    }
    let lines = "{\"file_name\": \"b/0.png\", \"text\": \"a r\u{e9}sum\u{e9}\", \"size\": 3}\r\n\r\n\
                 {\"text\": \"a \\\"cat\\\"\", \"file_name\": \"./a/0.png\"}";
    write(folder.path(), lines);
    let set = ImageSet::open(folder.path()).unwrap();
    let captions = set.captions.as_ref().unwrap();
    assert_eq!(captions.texts, ["a \"cat\"", "a r\u{e9}sum\u{e9}"]);
    assert_eq!(captions.lines, [3, 1]);
    assert_eq!(set.labels.as_deref(), Some(&[0, 1][..]), "classes stay beside texts");
    let error = captions.error(0, "is too long").to_string();
    assert!(error.contains("metadata.jsonl: line 3: is too long"), "{error}");
    let said = Summary::of(&set).unwrap().to_string();
    assert!(said.contains("captions    2, 2 of them different"), "{said}");
    fs::remove_file(folder.path().join("metadata.jsonl")).unwrap();
    let set = ImageSet::open(folder.path()).unwrap();
    assert!(set.captions.is_none() && !Summary::of(&set).unwrap().to_string().contains("captions"));
}

#[test]
fn captions_that_do_not_fit_name_the_line_and_the_image() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["0.png", "1.png"] {
        save(&folder.path().join(name), 50);
    }
    let first = "{\"file_name\": \"0.png\", \"text\": \"a\"}\n";
    let whole = format!("{first}{}", first.replace('0', "1"));
    write(folder.path(), &whole);
    assert!(ImageSet::open(folder.path()).is_ok());
    let cases: [(String, &[&str]); 8] = [
        (first.to_owned(), &["no line for the image `1.png`"]),
        (String::new(), &["no line for the image `0.png`"]),
        (format!("{whole}{}", first.replace('0', "2")), &["line 3", "`2.png`: no image"]),
        (format!("{whole}{first}"), &["line 3", "`0.png`", "line 1 already"]),
        (whole.replace("\"a\"}\n{", "\"a\n{"), &["line 1", "a line is {"]),
        (whole.replace("\"text\"", "\"caption\""), &["line 1", "missing field `text`"]),
        (
            format!("{first}{{\"file_name\": \"../1.png\", \"text\": \"a\"}}"),
            &["line 2", "`../1.png`: no image"],
        ),
        (format!("{first}{{\"file_name\": \"1.png\", \"text\": 3}}"), &["line 2", "expected a string"]),
    ];
    for (lines, words) in cases {
        write(folder.path(), &lines);
        let error = ImageSet::open(folder.path()).unwrap_err().to_string();
        let named = error.contains("metadata.jsonl") && words.iter().all(|w| error.contains(w));
        assert!(named && !error.contains('\n'), "{lines}: {error}");
    }
    fs::write(
        folder.path().join("metadata.jsonl"),
        [first.as_bytes(), b"{\"file_name\": \"1.png\", \"text\": \"\xff\"}"].concat(),
    )
    .unwrap();
    let error = ImageSet::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("metadata.jsonl: line 2"), "{error}");
}
