"use strict";
// The page is complete without this script. The script shows a composite enlarged with its recipe, and copies commands.
(() => {
  const dialog = document.getElementById("viewer");
  const title = document.getElementById("viewer-title");
  const panels = dialog.querySelector(".panels");
  const description = dialog.querySelector(".description");
  const views = { image: "image", mask: "mask", overlay: "overlay", regions: "numbered regions" };
  let cards = [];
  let position = 0; // index of the card that is shown
  let wanted = 0; // the zoom that the user chose; 0 before the first choice

  function panel(card, view) {
    const figure = document.createElement("figure");
    const stack = card.querySelector(".stack").cloneNode(true);
    stack.classList.add(`view-${view}`);
    const caption = document.createElement("figcaption");
    caption.textContent = views[view];
    figure.append(stack, caption);
    return figure;
  }

  // enlargements are whole numbers, so that every pixel stays a square
  function resize(step) {
    const photo = cards[position].querySelector(".photo");
    const width = panels.clientWidth;
    const most = Math.max(1, Math.floor(Math.min(width / photo.naturalWidth, 0.8 * innerHeight / photo.naturalHeight)));
    const three = Math.floor(width / 3.1 / photo.naturalWidth); // side by side
    const zoom = Math.max(1, Math.min(most, (wanted || Math.max(2, three)) + step));
    if (step) wanted = zoom;
    for (const stack of panels.querySelectorAll(".stack")) stack.style.width = `${zoom * photo.naturalWidth}px`;
    dialog.querySelector(".zoom").textContent = `${zoom}×`;
    dialog.querySelector("[data-zoom='-1']").disabled = zoom === 1;
    dialog.querySelector("[data-zoom='1']").disabled = zoom === most;
  }

  function show(number) {
    position = (number + cards.length) % cards.length;
    const card = cards[position];
    title.textContent = card.dataset.title;
    panels.replaceChildren(...Object.keys(views).map((view) => panel(card, view)));
    const copy = card.querySelector(".description").cloneNode(true);
    copy.removeAttribute("id");
    description.replaceChildren(...copy.childNodes);
    if (!dialog.open) dialog.showModal();
    resize(0);
    dialog.scrollTop = 0;
  }

  function copyCommand(button) {
    const command = button.previousElementSibling;
    const done = () => { button.textContent = "copied"; setTimeout(() => { button.textContent = "copy"; }, 1500); };
    const select = () => { getSelection().selectAllChildren(command); };
    if (navigator.clipboard) navigator.clipboard.writeText(command.textContent).then(done, select);
    else select();
  }

  for (const command of document.querySelectorAll("pre.command")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "copy";
    command.after(button);
  }
  for (const link of document.querySelectorAll("a.open")) {
    link.setAttribute("role", "button");
    link.setAttribute("aria-haspopup", "dialog");
  }

  document.addEventListener("click", (event) => {
    const target = event.target;
    if (!(target instanceof Element)) return;
    const link = target.closest("a.open, .triple figcaption a");
    if (link) {
      event.preventDefault();
      const card = link.closest(".card") || document.querySelector(link.hash).closest(".card");
      cards = [...card.parentElement.querySelectorAll(":scope > .card")];
      show(cards.indexOf(card));
    }
    const scale = target.closest("dialog button[data-zoom]");
    if (scale) resize(Number(scale.dataset.zoom));
    const action = target.closest("dialog button[data-go]");
    if (action && action.dataset.go === "close") dialog.close();
    else if (action) show(position + Number(action.dataset.go));
    if (target.matches("button.copy")) copyCommand(target);
    if (target === dialog) dialog.close();
  });
  document.addEventListener("keydown", (event) => {
    const link = event.target instanceof Element && event.target.closest("a.open");
    if (link && event.key === " ") { event.preventDefault(); link.click(); }
    if (!dialog.open || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "+" || event.key === "-") resize(event.key === "+" ? 1 : -1);
    if (event.target instanceof Element && event.target.closest(".scroll")) return; // here the arrow keys scroll a wide table
    if (event.key === "ArrowRight") show(position + 1);
    if (event.key === "ArrowLeft") show(position - 1);
  });
  addEventListener("resize", () => { if (dialog.open) resize(0); });
})();
