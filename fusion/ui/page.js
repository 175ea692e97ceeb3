// Small things that only the browser can do. No request leaves the page from here.
window.scoreFusionCopy = async (node) => {
  const field = document.getElementById('share-link');
  const address = new URL(field.value, location.href).toString();
  try { await navigator.clipboard.writeText(address); } catch { field.value = address; field.select(); document.execCommand('copy'); }
  const before = node.textContent;
  node.textContent = node.dataset.copied;
  setTimeout(() => { node.textContent = before; }, 1600);
};
// Files pasted or dropped anywhere go where they belong: a recipe.json to the way back, pictures and their captions.json to the target. Text fields keep their text.
window.scoreFusionFiles = (files) => {
  const recipe = files.length === 1 && /^(?!captions).*\.json$/i.test(files[0].name);
  const input = document.querySelector((recipe ? '#recipe-drop' : '#drop') + ' input[type=file]') || document.querySelector('#drop input[type=file]');
  if (!files.length || !input) return;
  const transfer = new DataTransfer();
  files.forEach((file) => transfer.items.add(file));
  input.files = transfer.files;
  input.dispatchEvent(new Event('change', { bubbles: true }));
  document.getElementById(recipe ? 'comeback' : 'target')?.scrollIntoView();
};
document.addEventListener('paste', (event) => window.scoreFusionFiles([...(event.clipboardData?.files || [])]));
const carriesFiles = (event) => [...(event.dataTransfer?.types || [])].includes('Files');
document.addEventListener('dragover', (event) => {
  if (!carriesFiles(event)) return;
  event.preventDefault();  // otherwise the browser would leave the page and show the file
  document.body.classList.add('sf-dragging');
});
document.addEventListener('dragleave', (event) => { if (!event.relatedTarget) document.body.classList.remove('sf-dragging'); });
document.addEventListener('drop', (event) => {
  document.body.classList.remove('sf-dragging');
  if (!carriesFiles(event) || event.defaultPrevented || event.target.closest?.('.sf-drop')) return;
  event.preventDefault();
  window.scoreFusionFiles([...event.dataTransfer.files]);
});
// The address follows the state, so that a reload or a bookmark finds it again; the document states its language.
window.scoreFusionAddress = () => {
  const field = document.getElementById('share-link'), head = document.getElementById('head');
  if (head && document.documentElement.lang !== head.dataset.language) document.documentElement.lang = head.dataset.language;
  const query = field?.getAttribute('value');
  if (!window.scoreFusionReady || !query || query === window.scoreFusionQuery) return;
  window.scoreFusionQuery = query;
  const theme = new URLSearchParams(location.search).get('__theme');
  history.replaceState(null, '', query + (theme ? '&__theme=' + theme : '') + location.hash);
};
new MutationObserver(window.scoreFusionAddress).observe(document.documentElement, { subtree: true, childList: true, attributes: true, attributeFilter: ['value', 'data-language'] });
document.addEventListener('click', (event) => {
  const link = event.target.closest('.sf a[href^="#"]');
  if (!link) return;
  event.preventDefault();
  const target = document.getElementById(link.getAttribute('href').slice(1));
  target?.scrollIntoView({ behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth' });
  target?.setAttribute('tabindex', '-1');
  target?.focus({ preventScroll: true });
});
