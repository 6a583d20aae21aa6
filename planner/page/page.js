"use strict";

const data = JSON.parse(document.getElementById("data").textContent);

/* A command is copied, or selected where the browser does not let a page copy. */
async function copyCommand(button) {
  const code = button.parentElement.querySelector("code");
  const before = button.textContent;
  try {
    await navigator.clipboard.writeText(code.textContent.trim());
    button.textContent = data.words.copied;
  } catch {
    getSelection().selectAllChildren(code);
    button.textContent = data.words.select;
  }
  setTimeout(() => { button.textContent = before; }, 2000);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button.copy");
  if (button) copyCommand(button);
});

/* The words of a command, between which alone a line breaks. */
function putCommand(code, text) {
  const words = text.split(" ").flatMap((word) => {
    const span = document.createElement("span");
    span.className = "word";
    span.textContent = word;
    return [span, " "];
  });
  code.replaceChildren(...words);
}

/* A part of the chart opens its formula, and an open formula marks its part. */
function markPart(details) {
  for (const mark of document.querySelectorAll(`.plot [data-part="${details.dataset.part}"]`)) {
    mark.classList.toggle("marked", details.open);
  }
}

for (const details of document.querySelectorAll("details[data-part]")) {
  details.addEventListener("toggle", () => markPart(details));
  markPart(details);
}

for (const plot of document.querySelectorAll(".plot")) {
  plot.addEventListener("click", (event) => {
    const part = event.target.dataset.part;
    const details = part && document.querySelector(`details[data-part="${part}"]`);
    if (!details) return;
    details.open = true;
    details.querySelector("summary").focus({ preventScroll: true });
    details.scrollIntoView({ block: "nearest" });
  });
}
