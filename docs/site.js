// What the theme's script makes, for those who use a keyboard or a screen reader: a table or drawing
// that is wider than the screen can be scrolled by keys, a code block's button is no landmark, and
// the path of a search result has a contrast of 4.5:1 and belongs to the result's name.
const legible = new CSSStyleSheet()
legible.replaceSync("menu { color: rgb(var(--color-foreground) / 0.75) !important }")
const observer = new MutationObserver(amend)

function amend() {
  for (const bar of document.querySelectorAll("nav.md-code__nav:not([role])")) {
    bar.setAttribute("role", "none")
  }
  for (const wide of document.querySelectorAll(".md-typeset__scrollwrap, p:has(> img)")) {
    if (wide.scrollWidth > wide.clientWidth) wide.tabIndex = 0
    else wide.removeAttribute("tabindex")
  }
  const search = [...document.body.children].find((each) => each.shadowRoot)?.shadowRoot
  if (!search) return
  if (!search.adoptedStyleSheets.includes(legible)) {
    search.adoptedStyleSheets.push(legible)
    observer.observe(search, {childList: true, subtree: true})
  }
  for (const result of search.querySelectorAll("[role=option][aria-labelledby]")) {
    result.removeAttribute("aria-labelledby")
  }
}

observer.observe(document.body, {childList: true, subtree: true})
addEventListener("resize", amend)
amend()
