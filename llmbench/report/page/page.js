"use strict";

// A point's title is shown at once, also to who uses the keyboard.
const tip = document.getElementById("tip");
const hide = () => { tip.hidden = true; };
for (const title of document.querySelectorAll(".dot > title")) {
  const dot = title.parentNode;
  dot.setAttribute("aria-label", title.textContent);
  title.remove();
  const show = () => {
    tip.textContent = dot.getAttribute("aria-label");
    tip.hidden = false;
    const box = dot.querySelector("circle").getBoundingClientRect();
    const left = Math.min(box.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    tip.style.left = `${Math.max(left, 4) + scrollX}px`;
    tip.style.top = `${box.bottom + scrollY + 12}px`;
  };
  dot.addEventListener("pointerenter", show);
  dot.addEventListener("focus", show);
  dot.addEventListener("pointerleave", hide);
  dot.addEventListener("blur", hide);
}
addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });

// Another prompt: its texts and scores take the places of the first one's.
const source = document.getElementById("texts");
if (source) {
  const { titles, prompts, cells } = JSON.parse(source.textContent);
  const select = document.getElementById("prompt");
  const cards = [...document.querySelectorAll(".cards > .card")];
  const choose = (place) => {
    select.value = place;
    document.getElementById("asked").textContent = prompts[place];
    cards.forEach((card, setting) => {
      const [text, ...scores] = cells[place][setting] ?? [null];
      card.querySelector("pre").textContent = text === null ? "(no text)" : text || "(empty)";
      card.querySelector(".score").textContent =
        scores.map((score, i) => score && `${titles[i]} ${score}`).filter(Boolean).join(", ");
    });
  };
  const move = (by) => choose((Number(select.value) + by + prompts.length) % prompts.length);
  select.addEventListener("change", () => choose(Number(select.value)));
  document.getElementById("previous").addEventListener("click", () => move(-1));
  document.getElementById("next").addEventListener("click", () => move(1));
  choose(0);
  document.querySelector(".scripted").hidden = false;
}

// A click on a column's head sorts by it: by the first number of a cell, else as text; "-" comes last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].textContent;
      const absent = (row) => key(row) === "-" || key(row) === "";
      const order = (a, b) => {
        const [x, y] = [parseFloat(key(a)), parseFloat(key(b))];
        return Number.isNaN(x) || Number.isNaN(y) ? key(a).localeCompare(key(b), "en", { numeric: true }) : x - y;
      };
      const rows = [...body.rows].sort((a, b) => absent(a) - absent(b) || (down ? -order(a, b) : order(a, b)));
      body.append(...rows);
    });
  });
}
