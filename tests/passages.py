"""A passage in many languages, and the encodings that texts in them are in."""

from __future__ import annotations

LANGUAGES = {
    "zh": (
        ("gb18030", "gbk", "gb2312"),
        (
            "灯塔看守人每天傍晚六点点亮灯火，然后坐在窗边，听海浪拍打岩石。那年冬天没有人来过，只有一只猫从村子里跟着"
            "邮差走上山来。老人给它起了名字，叫它“船长”。夜里风很大，他听见有人敲门，却看不见一个人影。第二天早晨，"
            "门口的雪地上留着一行脚印，一直通到悬崖边上，再也没有回头。"
        ),
    ),
    "zh-Hant": (
        ("big5",),
        (
            "燈塔看守人每天傍晚六點點亮燈火，然後坐在窗邊，聽海浪拍打岩石。那年冬天沒有人來過，只有一隻貓從村子裡跟著"
            "郵差走上山來。老人給牠起了名字，叫牠「船長」。夜裡風很大，他聽見有人敲門，卻看不見一個人影。第二天早晨，"
            "門口的雪地上留著一行腳印，一直通到懸崖邊上，再也沒有回頭。"
        ),
    ),
    "ja": (
        ("shift_jis", "euc_jp"),
        (
            "灯台守は毎日夕方の六時に明かりをともし、窓のそばに座って、波が岩に打ちつける音を聞いていた。その冬は誰も"
            "訪れず、ただ一匹の猫が郵便屋のあとについて村から登ってきただけだった。老人はその猫に「船長」という名前を"
            "つけた。夜になると風が強くなり、ドアをたたく音がしたが、外には誰もいなかった。"
        ),
    ),
    "ko": (
        ("euc_kr",),
        (
            "등대지기는 매일 저녁 여섯 시에 불을 켜고 창가에 앉아 파도가 바위에 부딪히는 소리를 들었다"
            ". 그해 겨울에는 아무도 찾아오지 않았고, 고양이 한 마리만 우체부를 따라 마을에서 올라왔다"
            ". 노인은 그 고양이에게 선장이라는 이름을 지어 주었다."
        ),
    ),
    "ru": (
        ("koi8_r", "cp1251", "cp866", "iso8859_5"),
        (
            "Смотритель маяка каждый вечер в шесть часов зажигал лампу, садился у окна и слушал, как волны бьются о "
            "скалы. В ту зиму никто не приходил, только кошка поднялась из деревни следом за почтальоном. Старик "
            "назвал её Капитаном. Ночью поднялся ветер, и ему показалось, что кто-то стучит в дверь, но снаружи "
            "никого не было."
        ),
    ),
    "uk": (
        ("koi8_u", "cp1251"),
        (
            "Доглядач маяка щовечора о шостій запалював лампу, сідав біля вікна й слухав, як хвилі б'ються об скелі. "
            "Тієї зими ніхто не приходив, тільки кішка піднялася із села слідом за листоношею. Старий назвав її "
            "Капітаном. Вночі здійнявся вітер, і йому здалося, що хтось стукає у двері, але надворі нікого не було."
        ),
    ),
    "bg": (
        ("cp1251",),
        (
            "Пазачът на фара всяка вечер в шест часа палеше лампата, сядаше до прозореца и слушаше как вълните се "
            "разбиват в скалите. През онази зима никой не дойде, само една котка се изкачи от селото след пощальона. "
            "Старецът я нарече Капитана. През нощта се изви вятър и му се стори, че някой чука на вратата, но навън "
            "нямаше никого."
        ),
    ),
    "fr": (
        ("cp1252", "iso8859_15", "mac_roman"),
        (
            "Le gardien du phare allumait la lampe chaque soir à six heures, puis il s'asseyait près de la fenêtre et "
            "écoutait les vagues frapper les rochers. Cet hiver-là, personne n'était venu, sauf un chat qui avait "
            "suivi le facteur depuis le village. Le vieil homme l'appela Capitaine. La nuit, le vent se leva ; il "
            "crut entendre quelqu'un frapper à la porte, mais il n'y avait personne dehors."
        ),
    ),
    "de": (
        ("cp1252", "cp850"),
        (
            "Der Wärter zündete jeden Abend um sechs Uhr die Lampe an, setzte sich ans Fenster und hörte, wie die "
            "Wellen gegen die Felsen schlugen. In jenem Winter kam niemand; nur eine Katze folgte dem Briefträger aus "
            "dem Dorf herauf. Der Alte nannte sie Käpt’n. Nachts erhob sich der Wind, und ihm war, als klopfte jemand "
            "an die Tür, doch draußen war niemand."
        ),
    ),
    "es": (
        ("cp1252",),
        (
            "El farero encendía la lámpara todas las tardes a las seis, se sentaba junto a la ventana y escuchaba "
            "cómo las olas golpeaban las rocas. Aquel invierno no vino nadie; sólo un gato subió del pueblo detrás "
            "del cartero. El viejo lo llamó Capitán. Por la noche se levantó el viento y creyó oír que alguien "
            "llamaba a la puerta, pero no había nadie."
        ),
    ),
    "pt": (
        ("latin-1",),
        (
            "O faroleiro acendia a lâmpada todas as tardes às seis horas, sentava-se junto à janela e ouvia as ondas "
            "a bater nas rochas. Naquele inverno não veio ninguém; só um gato subiu da aldeia atrás do carteiro. O "
            "velho chamou-lhe Capitão. À noite levantou-se o vento e pareceu-lhe que alguém batia à porta, mas lá "
            "fora não havia ninguém."
        ),
    ),
    "sv": (
        ("cp1252",),
        (
            "Fyrvaktaren tände lampan varje kväll klockan sex, satte sig vid fönstret och hörde hur vågorna slog mot "
            "klipporna. Den vintern kom ingen; bara en katt följde efter brevbäraren upp från byn. Den gamle kallade "
            "den för Kapten. På natten blåste det upp, och han tyckte att någon knackade på dörren, men där ute fanns "
            "ingen."
        ),
    ),
    "pl": (
        ("iso8859_2", "cp1250", "cp852"),
        (
            "Latarnik każdego wieczoru o szóstej zapalał lampę, siadał przy oknie i słuchał, jak fale uderzają o "
            "skały. Tamtej zimy nikt nie przyszedł, tylko kot wspiął się ze wsi za listonoszem. Starzec nazwał go "
            "Kapitanem. W nocy zerwał się wiatr i wydało mu się, że ktoś puka do drzwi, ale na zewnątrz nikogo nie "
            "było."
        ),
    ),
    "cs": (
        ("iso8859_2", "cp1250"),
        (
            "Strážce majáku každý večer v šest hodin rozsvítil lampu, posadil se k oknu a poslouchal, jak vlny "
            "narážejí na skály. Té zimy nikdo nepřišel, jen kočka vystoupala z vesnice za listonošem. Stařec ji "
            "pojmenoval Kapitán. V noci se zvedl vítr a zdálo se mu, že někdo klepe na dveře, ale venku nikdo nebyl."
        ),
    ),
    "hu": (
        ("iso8859_2",),
        (
            "A világítótorony őre minden este hatkor meggyújtotta a lámpát, az ablakhoz ült, és hallgatta, ahogy a "
            "hullámok a szikláknak csapódnak. Azon a télen nem jött senki, csak egy macska kapaszkodott fel a faluból "
            "a postás nyomában. Az öreg Kapitánynak nevezte el. Éjszaka feltámadt a szél, és úgy tűnt neki, hogy "
            "valaki kopog az ajtón, de odakint nem volt senki."
        ),
    ),
    "el": (
        ("cp1253", "iso8859_7"),
        (
            "Ο φαροφύλακας άναβε τη λάμπα κάθε βράδυ στις έξι, καθόταν δίπλα στο παράθυρο και άκουγε τα κύματα να "
            "χτυπούν τα βράχια. Εκείνον τον χειμώνα δεν ήρθε κανείς, μόνο μια γάτα ανέβηκε από το χωριό πίσω από τον "
            "ταχυδρόμο. Ο γέρος την ονόμασε Καπετάνιο. Τη νύχτα σηκώθηκε αέρας και του φάνηκε πως κάποιος χτυπούσε "
            "την πόρτα, μα έξω δεν ήταν κανείς."
        ),
    ),
    "tr": (
        ("cp1254",),
        (
            "Fener bekçisi her akşam saat altıda lambayı yakar, pencerenin yanına oturur ve dalgaların kayalara "
            "çarpışını dinlerdi. O kış kimse gelmedi; yalnızca bir kedi postacının peşinden köyden yukarı çıktı. "
            "Yaşlı adam ona Kaptan adını verdi. Gece rüzgâr çıktı ve biri kapıyı çalıyor gibi geldi, ama dışarıda "
            "kimse yoktu."
        ),
    ),
    "he": (
        ("cp1255",),
        (
            "שומר המגדלור הדליק את המנורה בכל ערב בשעה שש, התיישב ליד החלון והקשיב לגלים המתנפצים אל הסלעים. באותו "
            "חורף לא בא איש; רק חתול אחד עלה מן הכפר בעקבות הדוור. הזקן קרא לו קפטן. בלילה התחזקה הרוח ונדמה לו "
            "שמישהו דופק בדלת, אבל בחוץ לא היה איש."
        ),
    ),
    "ar": (
        ("cp1256", "iso8859_6"),
        (
            "كان حارس المنارة يشعل المصباح كل مساء في الساعة السادسة، ثم يجلس قرب النافذة ويصغي إلى الأمواج وهي تضرب "
            "الصخور. في ذلك الشتاء لم يأت أحد، إلا قطة صعدت من القرية وراء ساعي البريد. سماها العجوز القبطان. وفي "
            "الليل اشتدت الريح وخيل إليه أن أحدا يطرق الباب، لكن لم يكن في الخارج أحد."
        ),
    ),
    "th": (
        ("cp874",),
        (
            "ผู้ดูแลประภาคารจุดตะเกียงทุกเย็นเวลาหกโมง แล้วนั่งลงข้างหน้าต่างฟังเสียงคลื่นซัดโขดหิน ฤดู"
            "หนาวปีนั้นไม่มีใครมาเลย มีเพียงแมวตัวหนึ่งเดินตามบุรุษไปรษณีย์ขึ้นมาจากหมู่บ้าน ชายชราตั้ง"
            "ชื่อมันว่ากัปตัน ตกกลางคืนลมแรงขึ้น เขาได้ยินเหมือนมีคนเคาะประตู แต่ข้างนอกไม่มีใคร"
        ),
    ),
    "lt": (
        ("cp1257",),
        (
            "Švyturio prižiūrėtojas kiekvieną vakarą šeštą valandą uždegdavo lempą, atsisėsdavo prie lango ir "
            "klausydavosi, kaip bangos daužosi į uolas. Tą žiemą niekas neatėjo, tik katė atsekė paštininką iš kaimo. "
            "Senis pavadino ją Kapitonu. Naktį pakilo vėjas, ir jam pasirodė, kad kažkas beldžia į duris, bet lauke "
            "nieko nebuvo."
        ),
    ),
}
