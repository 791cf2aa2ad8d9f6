"""What the calibration says of verdicts and shares, on lines whose answer is known."""

import polars as pl
import pytest
from benchmarks.calibrate import BEGIN, END, SHOWN, fill, in_order, is_measured, save, table
from benchmarks.zoo_summary import ALL, MIXTURES, summary, wrong

from grokscope.errors import InputError


def line(member: str, seed: int, **rest: object) -> dict[str, object]:
    made = {"worlds", "worlds_all", "share_planted"}  # of the table, or given
    names = [*(name for name in SHOWN if name not in made), "used", "low", "high", "lens_anywhere"]
    return {"member": member, "seed": seed, **dict.fromkeys(names), **rest}


ROWS = [
    line(
        member, seed, mechanism="partial", verdict="undecided" if seed == 3 else "partial",
        verdict_right=float(seed != 3), share_planted=0.5, share=0.5 + off, covers=float(abs(off) < 0.05),
        width=0.1, low=0.45 + off, high=0.55 + off, part=float("nan"),
    )
    for member, offs in (("deleted_50", (0.0, 0.02, -0.06, 0.0)), ("overridden_50", (0.1, 0.0, 0.0, 0.0)))
    for seed, off in enumerate(offs)
] + [
    line(
        "redundant_25", 0, mechanism="redundant", verdict="partial", verdict_right=0.0, share_planted=0.25,
        share=0.9, part=0.3, width=0.04, covers=float("nan"), low=0.88, high=0.92, lens_anywhere=1.0,
    )
]  # fmt: skip


def test_undecided_verdicts_are_not_counted_and_a_redundant_member_is_asked_for_its_part() -> None:
    lines = {row["member"]: row for row in summary(ROWS).to_dicts()}
    deleted, redundant = lines["deleted_50"], lines["redundant_25"]
    assert (deleted["worlds"], deleted["decided"], deleted["right"]) == (4, 3, 1.0)
    assert deleted["error"] == pytest.approx(0.02)
    assert deleted["bias"] == pytest.approx(-0.01)
    assert (deleted["covered"], deleted["width"]) == (0.75, pytest.approx(0.1))
    assert deleted["covered_low"] < 0.75 < deleted["covered_high"]
    assert redundant["error"] == pytest.approx(0.05)
    assert (redundant["covered"], redundant["width"], redundant["right"]) == (None, None, 0.0)
    pooled, every = lines[MIXTURES], lines[ALL]
    assert (pooled["worlds"], pooled["covered"]) == (4, 0.75)
    assert pooled["error"] == pytest.approx((0.02 + 0.06 + 0.1) / 8)
    assert (every["decided"], every["right"], every["error"]) == (7, pytest.approx(6 / 7), None)
    assert wrong(ROWS) == ["redundant_25, world 0: partial, is redundant (share 0.900, 0.880 to 0.920)."]


def test_lines_survive_the_file_and_say_which_instruments_were_measured(tmp_path) -> None:
    save(ROWS, tmp_path)
    read = pl.read_csv(tmp_path / "zoo_worlds.csv", infer_schema_length=None).to_dicts()
    by = {(row["member"], row["seed"]): row for row in read}
    assert is_measured(by["deleted_50", 1], every=False)
    assert not is_measured(by["deleted_50", 1], every=True)
    assert is_measured(by["redundant_25", 0], every=True)
    assert not is_measured(None, every=False)
    counted = {row["member"]: row["worlds_all"] for row in table(read).to_dicts()}
    assert counted == {"deleted_50": 0, "overridden_50": 0, "redundant_25": 1}
    for column in ("right", "error", "covered"):
        assert summary(read)[column].to_list() == pytest.approx(
            summary(in_order(ROWS))[column].to_list(), abs=1e-4
        )


def test_the_page_gets_the_table_between_its_marks_and_keeps_the_rest(tmp_path) -> None:
    page = tmp_path / "zoo.md"
    first, second = BEGIN.format("zoo"), BEGIN.format("instruments")
    page.write_text(f"before\n\n{first}\nold\n{END}\n\nbetween\n{second}\nold\n{END}\nafter\n")
    fill(page, ROWS)
    text = page.read_text()
    assert text.startswith(f"before\n\n{first}\n| member |")
    assert f"|\n{END}\n\nbetween\n{second}\n| member |" in text
    # The one line in which all instruments were used, and what nobody could tell.
    assert text.endswith(
        "| `redundant_25` | redundant | 0.25 | 0.90 | - | - (-) | - (-) | - | - | - |\n<!-- end -->\nafter\n"
    )
    assert "old" not in text
    line = next(line for line in text.splitlines() if line.startswith("| `deleted_50` |"))
    numbers = summary(in_order(ROWS)).filter(pl.col("member") == "deleted_50").to_dicts()[0]
    assert f"| {numbers['error']:.3f} | {numbers['bias']:.3f} |" in line
    page.write_text("no marks")
    with pytest.raises(InputError, match="has no <!-- zoo -->"):
        fill(page, ROWS)
