"""Pages in a real browser, where Chromium is installed: of a comparison, sorted and image by image; none too wide."""

import html
import json
import re
import shutil
import subprocess

import pytest
from conftest import write_folder_dataset
from test_compare import make_run

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
]
FIRST = "<head><script>const errors = []; onerror = message => errors.push(message);</script>"
LAST = """<script>
const column = () => [...document.querySelectorAll("#settings tbody tr")].map(row => row.cells[0].textContent);
const head = document.querySelector("#settings th.sort"), orders = [];
for (let click = 0; click < 2; click++) { head.click(); orders.push(column()); }
const counts = [document.getElementById("count").textContent], y = document.getElementById("y");
y.value = document.getElementById("x").value; y.onchange(); counts.push(document.getElementById("count").textContent);
const report = document.createElement("pre"); report.id = "report";
report.textContent = JSON.stringify({errors, orders, counts, sorted: head.getAttribute("aria-sort"),
  dots: document.querySelectorAll("#scatter circle title").length,
  fetched: performance.getEntriesByType("resource").map(one => one.name).filter(name => !name.startsWith("data:")),
  too_wide: document.documentElement.scrollWidth - innerWidth});
document.body.append(report);
</script></body>"""


pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")


def reported(page: str, width: int, folder):
    """What a page writes into its element `report`, in a window of this width."""
    (folder / "probed.html").write_text(page)
    how = [*FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", "--dump-dom"]
    done = subprocess.run(
        [BROWSER, *how, f"file://{folder / 'probed.html'}"], capture_output=True, text=True, timeout=120
    )
    return json.loads(html.unescape(re.search('<pre id="report">(.*?)</pre>', done.stdout, re.DOTALL)[1]))


def test_the_page_of_a_check_fits_a_narrow_window(segtrain, tmp_path):
    write_folder_dataset(tmp_path / "data")
    assert segtrain("check", "data", "--out", "checked").code == 0
    page = (tmp_path / "checked/check.html").read_text()
    probe = """<script>const report = document.createElement("pre"); report.id = "report";
    report.textContent = document.documentElement.scrollWidth - innerWidth; document.body.append(report);</script>"""
    assert reported(page.replace("</body>", f"{probe}</body>"), 500, tmp_path) <= 0


@pytest.mark.parametrize("width", [500, 1600])  # Chromium opens no window of less than 500
def test_the_page_in_a_browser(segtrain, tmp_path, width):
    for alpha in (0, 0.5, 1, 2, 10):
        for seed in (0, 1):
            make_run(tmp_path / f"sweep/{alpha}_{seed}", {"trainer": {"alpha": alpha}}, 0.5 + 0.01 * alpha, seed)
    assert segtrain("compare", "sweep", "--out", "report").code == 0
    page = (tmp_path / "report/comparison.html").read_text().replace("<head>", FIRST).replace("</body>", LAST)
    report = reported(page, width, tmp_path)
    assert report == {
        "errors": [],
        "orders": [["10", "2", "1", "0.5", "0"], ["0", "0.5", "1", "2", "10"]],
        "counts": ["better in 40, worse in 0 of 40 images", "better in 0, worse in 0 of 40 images"],
        "sorted": "ascending",
        "dots": 40,
        "fetched": [],
        "too_wide": report["too_wide"],
    }
    assert report["too_wide"] <= 0
