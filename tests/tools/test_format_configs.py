"""The compact form: what it looks like, that it changes nothing but white space, that it is stable."""

import json

import pytest

from tools.format_configs import WIDTH, format_text, main


def test_short_component_stays_on_one_line_of_a_broken_list():
    text = json.dumps(
        {"transforms": [{"_target_": "A", "keys": ["x" * 40]}, {"_target_": "B", "n": "y" * 60}]}
    )
    assert format_text(text) == (
        "{\n"
        '  "transforms": [\n'
        f'    {{"_target_": "A", "keys": ["{"x" * 40}"]}},\n'
        f'    {{"_target_": "B", "n": "{"y" * 60}"}}\n'
        "  ]\n"
        "}\n"
    )


def test_text_that_fits_in_110_columns_is_one_line_and_one_more_letter_breaks_it():
    fits = json.dumps({"a": "x" * (WIDTH - len('{"a": ""}'))})
    assert WIDTH == 110
    assert format_text(fits) == fits + "\n"
    assert format_text(fits.replace('"a"', '"ab"')).count("\n") == 3


def test_comma_counts_as_a_column():
    """With key, indentation and comma 110 columns fit; as the last item it has one to spare."""
    item = json.dumps({"_target_": "T", "k": {"x": 1}, "n": "y" * 60})
    key = "k" * (WIDTH - 2 - len('"": ,') - len(item))
    lines = format_text(f'{{"{key}": {item}, "b": 2}}').splitlines()
    assert max(map(len, lines)) == WIDTH
    assert len(lines) == 4
    assert len(format_text(f'{{"{key}z": {item}, "b": 2}}').splitlines()) > 4
    assert len(format_text(f'{{"b": 2, "{key}z": {item}}}').splitlines()) == 4


@pytest.mark.parametrize("number", ["0.0000000001", "1.0", "1e-05", "-0.50", "12345678901234567890", "1E5"])
def test_numbers_stay_as_they_were_typed(number):
    assert format_text(f'{{"eps":{number}}}') == f'{{"eps": {number}}}\n'


def test_order_words_and_letters_are_kept():
    text = '{"z": true, "a": null, "m": false, "name": "µ § \\"quoted\\" \\\\ \\n"}\n'
    assert format_text(text) == text


def test_long_component_is_filled_into_lines_and_means_the_same():
    component = {"_target_": "T", **{f"argument_{n}": ["@value", n] for n in range(20)}}
    text = format_text(json.dumps({"item": component, "b": {"c": component}}))
    assert json.loads(text) == {"item": component, "b": {"c": component}}
    assert max(map(len, text.splitlines())) <= WIDTH
    assert len(text.splitlines()) < 20


@pytest.mark.parametrize("text", ['{"a": 1, "a": 2}', '{"b": [{"a": 1, "c": 3, "a": 1}]}'])
def test_key_given_twice_is_refused(text):
    with pytest.raises(ValueError, match="duplicate key 'a'"):
        format_text(text)


def test_form_is_stable_and_equal_in_meaning_for_every_config(repository):
    files = [*repository.glob("bundles/*/configs/*.json"), *repository.glob("common/configs/*.json")]
    assert files
    for file in files:
        once = format_text(file.read_text())
        assert format_text(once) == once
        assert json.loads(once) == json.loads(file.read_text())
        assert list(json.loads(once)) == list(json.loads(file.read_text()))


def test_check_lists_files_and_changes_nothing_then_formatting_satisfies_it(tmp_path, capsys):
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text('{"a": 1}\n')
    bad.write_text('{\n    "a": 1\n}')
    files = [str(good), str(bad)]
    assert main(["--check", *files]) == 1
    assert "bad.json" in (listed := capsys.readouterr().out)
    assert "good.json" not in listed
    assert bad.read_text() == '{\n    "a": 1\n}'
    assert main(files) == 0
    assert main(["--check", *files]) == 0
    assert bad.read_text() == good.read_text()


def test_broken_file_is_named_and_left_alone(tmp_path, capsys):
    file = tmp_path / "broken.json"
    file.write_text('{"a": }')
    assert main([str(file)]) == 1
    assert "broken.json" in capsys.readouterr().err
    assert file.read_text() == '{"a": }'
